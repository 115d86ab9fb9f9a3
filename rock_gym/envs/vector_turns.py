"""What was sent to the environments of a vector, and the wait until enough of it came back.

Whoever has an event loop need not wait: it listens to the vector's descriptor, has what came taken
in, and looks whether that is enough.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rock_gym.envs.vector_poller import Poller
    from rock_gym.envs.vector_slots import Slot

__all__ = ["Turn", "Turns"]

# In how many parts the answers of all are taken in. Who is woken by each of them interrupts those
# who have yet to work, and finds its own code and data gone from the caches. Who waits for all has
# nothing to do meanwhile.
_PARTS = 3
# How long one answer is waited for while there may be others: the next episode of an environment
# whose answer is there could begin.
_PART_S = 0.02


@dataclass(frozen=True, slots=True)
class Turn:
    """What was begun.

    Attributes:
        is_there: Whether enough has come back.
        take: Returns what the method of the vector would, or raises it. To be called once, when
            enough is there.
    """

    is_there: Callable[[], bool]
    take: Callable[[], Any]


class Turns:
    """The part of a vector that waits.

    Attributes:
        due_s: When something must be taken in even if nothing comes, in terms of
            ``time.monotonic``: the soonest limit is no earlier. Infinite if there is none.
    """

    due_s = math.inf
    _slots: list[Slot]
    _poller: Poller
    _ready: list[int]
    _awaited: int

    def fileno(self) -> int:
        """The descriptor to poll, or to have an event loop listen to; see ``take_in``."""
        return self._poller.fileno()

    def finish(self, turn: Turn) -> Any:
        """Wait until enough of a turn is there, and return what its ``take`` does."""
        self._gather(turn.is_there, whole=True)
        return turn.take()

    def take_in(self) -> None:
        """Take in what has come, without waiting, and end what has outlived its limit."""
        now = time.monotonic()
        if now >= self.due_s:
            self._expire(now)
        self._drain()

    def _drain(self) -> None:
        # More comes while some is taken in, and to be told of it costs as much as to look.
        while numbers := self._poller.wait(0):
            self._advance(numbers)

    def _note(self, number: int, slot: Slot, has_row: bool) -> None:
        if has_row:
            self._awaited -= 1
            self._ready.append(number)
        elif slot.player.deadline < self.due_s:
            self.due_s = slot.player.deadline

    def _gather(
        self, enough: Callable[[], bool], until: float | None = None, *, whole: bool = False
    ) -> None:
        """Take in answers as they come, until there are enough or time is up.

        Args:
            enough: Whether there are enough.
            until: When time is up, in terms of ``time.monotonic``; None for never.
            whole: Whether only all are enough.
        """
        wait = self._poller.wait
        end = math.inf if until is None else until
        while not enough():
            now = time.monotonic()
            if now >= self.due_s:
                self._expire(now)
                continue
            soonest = min(end, self.due_s)
            if whole:
                self._wait_for_part(min(soonest - now, _PART_S))
            self._advance(wait(None if soonest == math.inf else soonest - now))
            if now >= end:
                break
        # An episode that is over may be followed by the next at once.
        self._poller.flush()

    def _wait_for_part(self, timeout_s: float) -> None:
        """Wait for one of those that answer late, as they work in the order they were asked in."""
        pending = [number for number, slot in enumerate(self._slots) if slot.pending]
        part = math.ceil(len(self._slots) / _PARTS)
        if pending:
            self._poller.wait_for(pending[min(part, len(pending)) - 1], timeout_s)

    def _advance(self, numbers: Iterable[int]) -> None:
        """Take in the answers of environments that may have some."""
        slots, ready = self._slots, self._ready
        for number in numbers:
            slot = slots[number]
            if not slot.pending:
                slot.player.ignore()
            elif slot.advance():
                self._awaited -= 1
                ready.append(number)
            elif slot.player.deadline < self.due_s:
                self.due_s = slot.player.deadline

    def _expire(self, now: float) -> None:
        """End what has outlived its limit. The deadline kept is never later than any of theirs."""
        self._drain()  # who has answered is not late because nobody looked
        self.due_s = math.inf
        for number, slot in enumerate(self._slots):
            if slot.pending:
                self._note(number, slot, slot.player.deadline <= now and slot.expire())
