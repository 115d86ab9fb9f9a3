"""Several environments in one process, each with random numbers of its own.

They take turns: one that is slow delays those that were asked after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from . import wire
from .chance import Chance, State

__all__ = ["Several"]

# Answers wait this long for others to go out with.
_HELD_S = 0.001

_Meet = Callable[[Any], "wire.Answer | None"]


class Several:
    """The environments of a process, by their numbers.

    Args:
        begin: Returns what meets the requests to one more environment.
        send: Sends a message to the host.
    """

    def __init__(self, begin: Callable[[], _Meet], send: Callable[[msgspec.Struct], None]) -> None:
        self._begin, self._send = begin, send
        self._meets: dict[int, _Meet] = {}
        self._unmade: dict[int, wire.Answer] = {}
        self._chance: Chance | None = None
        self._states: dict[int, State] = {}
        self._first: State | None = None
        self._current: int | None = None

    def meet(self, batch: wire.Batch) -> None:
        """Do what is asked, and send what there is to say of it."""
        answers: list[wire.Answer] = []
        since = time.monotonic()
        for number, request in batch.items:
            answer = self._meet(number, request)
            if answer is not None:
                answers.append(answer)
                if time.monotonic() - since > _HELD_S:
                    self._send_all(answers)
                    answers = []
                    since = time.monotonic()
        if answers:
            self._send_all(answers)

    def _meet(self, number: int, request: wire.Make | wire.Reset | wire.Step) -> Any:
        if number != self._current:
            try:
                self._turn_to(number)
            except RuntimeError as error:
                failure = wire.Failed("unavailable", str(error), "", True)
                return None if type(request) is wire.Make else failure
        if type(request) is wire.Make:
            # What is wrong with it is the answer to whatever is asked of it.
            self._unmade.pop(number, None)
            unmade = self._meets[number](request)
            if unmade is not None:
                self._unmade[number] = unmade
            return None
        return self._unmade.get(number) or self._meets[number](request)

    def _turn_to(self, number: int) -> None:
        """Exchange one environment's random numbers for another's, which begin as the process did.

        Raises:
            RuntimeError: If that cannot be done here.
        """
        chance = self._chance
        if chance is None:
            chance = self._chance = Chance()
            self._first = chance.take()
        elif self._current is not None:
            self._states[self._current] = chance.take()
        assert self._first is not None
        if number not in self._meets:
            self._meets[number] = self._begin()
        chance.give(self._states.get(number, self._first))
        self._current = number

    def _send_all(self, answers: list[wire.Answer]) -> None:
        try:
            self._send(wire.Answers(answers))
        except wire.WireError:
            # One is too large, or they are together.
            for answer in answers:
                self._send_alone(answer)

    def _send_alone(self, answer: wire.Answer) -> None:
        try:
            wire.encode(answer)
            self._send(wire.Answers([answer]))
        except wire.WireError as error:
            self._send(wire.Answers([wire.Failed("too_large", str(error))]))
