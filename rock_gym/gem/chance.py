"""The random numbers of a process, kept apart for each of several environments in it.

GEM draws from Python's and numpy's global generators. Environments that share a process each get
these as they left them, so that each draws what it would draw alone. The generators themselves stay
where they are, as modules hold on to their methods; what is exchanged is the memory of their state.
Reading and writing it by the generators' own methods would take longer than most steps do.
"""

from __future__ import annotations

import ctypes
import importlib
import random
from typing import Any, NamedTuple

__all__ = ["Chance", "State"]

_WORDS = 624
_WORD_BYTES = 4
_STATE_BYTES = (_WORDS + 1) * _WORD_BYTES


class State(NamedTuple):
    """Where the generators are: their words and position, and the normal number left over."""

    python: bytes
    python_gauss: float | None
    numpy: bytes
    numpy_gauss: tuple[int, float]


class Chance:
    """Takes and gives the state of the process's global random numbers.

    Raises:
        RuntimeError: If this interpreter, or this numpy, keeps it elsewhere.
    """

    def __init__(self) -> None:
        self._python: Any = random.seed.__self__  # type: ignore[attr-defined]
        # In CPython a generator is a head, a position and its words.
        self._python_words = _memory(id(self._python) + object.__basicsize__)
        self._numpy = importlib.import_module("numpy.random").mtrand._rand
        generator = self._numpy._bit_generator
        # In numpy the words come first. The address is part of its interface.
        self._numpy_words = _memory(generator.ctypes.state_address)
        version, python, _ = random.getstate()
        numpy = self._numpy.get_state(legacy=False)
        words = numpy["state"]["key"].tolist(), numpy["state"]["pos"]
        if (
            version != 3
            or _numbers(self._python_words) != [python[-1], *python[:-1]]
            or numpy["bit_generator"] != "MT19937"
            or _numbers(self._numpy_words) != [*words[0], words[1]]
        ):
            raise RuntimeError(
                "environments cannot share a process here, as this interpreter or its numpy keeps "
                "the state of its random numbers in another way: leave out envs_per_process="
            )
        self._gauss = self._read_gauss()
        self._loaded = bytes(self._numpy_words)

    def take(self) -> State:
        """Return the state as it is now."""
        numpy = bytes(self._numpy_words)
        if self._gauss[0] or numpy != self._loaded:
            # Else no number was drawn, and none can have been left over.
            self._gauss = self._read_gauss()
        return State(bytes(self._python_words), self._python.gauss_next, numpy, self._gauss)

    def give(self, state: State) -> None:
        """Go on from a state that was taken."""
        self._python_words[:] = state.python
        self._python.gauss_next = state.python_gauss
        if self._gauss != state.numpy_gauss:
            whole = self._numpy.get_state(legacy=False)
            whole["has_gauss"], whole["gauss"] = state.numpy_gauss
            self._numpy.set_state(whole)
            self._gauss = state.numpy_gauss
        self._numpy_words[:] = state.numpy
        self._loaded = state.numpy

    def _read_gauss(self) -> tuple[int, float]:
        state = self._numpy.get_state(legacy=False)
        return (1, state["gauss"]) if state["has_gauss"] else (0, 0.0)


def _memory(address: int) -> memoryview:
    return memoryview((ctypes.c_char * _STATE_BYTES).from_address(address)).cast("B")


def _numbers(memory: memoryview) -> list[int]:
    return memory.cast("I").tolist()
