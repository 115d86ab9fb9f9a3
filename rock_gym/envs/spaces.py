"""Text spaces that hold any string, and their passage through gymnasium's shared memory.

``gymnasium.spaces.Text`` tables its characters, which for all of Unicode costs seconds and hundreds
of megabytes. ``Unicode`` tables nothing: it computes what gymnasium looks up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from multiprocessing.heap import BufferWrapper
from typing import Any, cast

import numpy as np
from gymnasium.spaces import Text
from gymnasium.vector.utils.shared_memory import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from numpy.typing import NDArray

from rock_gym.envs.actions import sample_action

__all__ = ["ActionText", "Unicode"]

_CODE_POINTS = 0x110000
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
_LONGEST_SAMPLE = 256


class _AllCharacters(Sequence[str]):
    """Every character, by code point: what ``Text`` keeps as a set and as a list."""

    def __len__(self) -> int:
        return _CODE_POINTS

    def __getitem__(self, index: Any) -> Any:
        return chr(index)

    def __contains__(self, item: object) -> bool:
        return isinstance(item, str) and len(item) == 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _AllCharacters)

    def __hash__(self) -> int:
        return hash(_AllCharacters)


_ALL_CHARACTERS = _AllCharacters()


class Unicode(Text):
    """All strings of up to ``max_length`` characters, the empty one included.

    It is a ``Text``, so gymnasium batches it to a ``Tuple`` of strings and flattens it to code
    points, padded with 0x110000. Equal means: the same ``max_length``.

    Args:
        max_length: The most characters a text may have.
        seed: The seed for ``sample``.
    """

    def __init__(self, max_length: int, *, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(max_length, min_length=0, charset=" ", seed=seed)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string of at most ``max_length`` characters."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(
        self,
        mask: tuple[int | None, NDArray[np.int8] | None] | None = None,
        probability: tuple[int | None, NDArray[np.float64] | None] | None = None,
    ) -> str:
        """Draw a text of printable ASCII, no longer than 256 characters unless asked for.

        Args:
            mask: A length, and which of ``characters`` to draw from. Either may be None.
            probability: A length, and the probability of each of ``characters``.
        """
        if mask is not None and probability is not None:
            raise ValueError("give mask= or probability=, not both")
        length, weights = mask or probability or (None, None)
        if length is None:
            length = int(self.np_random.integers(min(self.max_length, _LONGEST_SAMPLE) + 1))
        elif not 0 <= length <= self.max_length:
            raise ValueError(f"length must be between 0 and {self.max_length}, not {length}")
        return self._draw(length, weights)

    def _draw(self, length: int, weights: NDArray[Any] | None) -> str:
        if weights is None:
            codes = self.np_random.integers(0x20, 0x7F, size=length, dtype=np.uint8)
            return codes.tobytes().decode("ascii")
        if len(weights) != len(_PRINTABLE):
            raise ValueError(f"expected one weight for each of characters, {len(_PRINTABLE)}")
        total = float(np.sum(weights))
        if total == 0:
            return ""
        drawn = self.np_random.choice(list(_PRINTABLE), size=length, p=np.asarray(weights) / total)
        return "".join(drawn.tolist())

    @property
    def character_set(self) -> frozenset[str]:
        """Every character there is: knows its size and its members, without holding them."""
        return cast("frozenset[str]", _ALL_CHARACTERS)

    @property
    def character_list(self) -> tuple[str, ...]:
        """Every character there is, in the order of their code points."""
        return cast("tuple[str, ...]", _ALL_CHARACTERS)

    def character_index(self, char: str) -> np.int32:
        """Return the code point of a character."""
        return np.int32(ord(char))

    @property
    def characters(self) -> str:
        """The characters that ``sample`` draws from."""
        return _PRINTABLE

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.max_length})"

    def __eq__(self, other: object, /) -> bool:
        return isinstance(other, Unicode) and self.max_length == other.max_length

    # As with every gymnasium space, equality is by value and the length can be reassigned.
    __hash__ = None  # type: ignore[assignment]


class ActionText(Unicode):
    """All strings, of which ``sample`` draws moves that the GEM environment's parser accepts.

    Args:
        gem_id: The GEM id that decides what a move looks like.
        max_length: The most characters an action may have.
        seed: The seed for ``sample``.
    """

    def __init__(
        self, gem_id: str, max_length: int, *, seed: int | np.random.Generator | None = None
    ) -> None:
        super().__init__(max_length, seed=seed)
        self.gem_id = gem_id

    def sample(
        self,
        mask: tuple[int | None, NDArray[np.int8] | None] | None = None,
        probability: tuple[int | None, NDArray[np.float64] | None] | None = None,
    ) -> str:
        """Draw a move, or characters as ``Unicode.sample`` does if either argument is given.

        The space does not see the board: ``GemEnv.sample_random_action`` does.
        """
        if mask is not None or probability is not None:
            return super().sample(mask, probability)
        return sample_action(self.gem_id, None, self.np_random)[: self.max_length]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.gem_id!r}, {self.max_length})"


class _SharedTexts:
    """One text per environment, in memory that worker processes share, however they start."""

    _HEADER = 8

    def __init__(self, n: int, max_length: int) -> None:
        # No character takes more than four bytes of UTF-8, and pages that no text has reached
        # cost nothing. That is why this is not an Array of multiprocessing, which fills all of it.
        self.n = n
        self._stride = self._HEADER + 4 * max_length
        self._memory = BufferWrapper(n * self._stride)
        for index in range(n):
            self.write(index, "")

    def write(self, index: int, text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > self._stride - self._HEADER:
            raise ValueError(
                f"a text of {len(text)} characters does not fit its observation space; "
                "make the environment with a larger max_length="
            )
        start = index * self._stride
        body = start + self._HEADER
        with self._memory.create_memoryview() as view:
            view[start:body] = len(data).to_bytes(self._HEADER, "little")
            view[body : body + len(data)] = data

    def read(self, index: int) -> str:
        start = index * self._stride
        body = start + self._HEADER
        with self._memory.create_memoryview() as view:
            length = int.from_bytes(view[start:body], "little")
            return bytes(view[body : body + length]).decode("utf-8", "surrogatepass")


class _LiveTexts(Sequence[str]):
    """The texts as they are now. Its deep copy is a tuple of the strings of that moment.

    gymnasium reads shared memory once, when it makes the vector environment, and returns deep
    copies of what it read from then on. Numbers are a view of the memory and so stay current;
    this does the same for texts.
    """

    def __init__(self, texts: _SharedTexts) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return self._texts.n

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        return self._texts.read(range(self._texts.n)[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._texts.read, range(self._texts.n))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        return repr(tuple(self))


def _create(space: Unicode, n: int = 1, ctx: Any = None) -> Any:
    return _SharedTexts(n, space.max_length)


def _write(space: Unicode, index: int, value: str, shared_memory: _SharedTexts) -> None:
    shared_memory.write(index, value)


def _read(space: Unicode, shared_memory: _SharedTexts, n: int = 1) -> Any:
    return _LiveTexts(shared_memory)


create_shared_memory.register(Unicode, _create)
write_to_shared_memory.register(Unicode, _write)
read_from_shared_memory.register(Unicode, _read)
