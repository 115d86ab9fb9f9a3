"""Hits of a container's limits, which its first process reads from its control groups.

Asked before every command, they must cost no round trip: the question goes along with the command,
and is answered only if there is news. So what was so before is known in full when something sent
later has been answered.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable

from rock_gym.backends.base import LimitHits
from rock_gym.backends.docker import protocol
from rock_gym.backends.docker.files import space_of
from rock_gym.backends.docker.groups import Groups
from rock_gym.backends.docker.link import Handle, Link
from rock_gym.errors import FileError, RockGymError, SandboxClosed, SandboxLost

_ANSWER_S = 1.0
_KEPT_CHANGES = 256
_FULL_BLOCKS = 16
_FULL_FILES = 1


class Counts(Handle):
    """Keeps account of them. All methods may be called from any thread, and none raises.

    Args:
        link: The stream to the first process.
        groups: Where to look if that cannot see them; None if it can.
    """

    def __init__(self, link: Link, groups: Groups | None) -> None:
        self._groups = groups
        self._tickets = itertools.count(1)
        self._answered = 0
        # What was found on which question, if it was new.
        self._changes = deque([(0, LimitHits())], maxlen=_KEPT_CHANGES)
        super().__init__(link)

    def take(self, kind: int, payload: bytes) -> None:
        """Note a frame; see ``Handle.take``."""
        if kind == protocol.COUNTED:
            ticket, oom, pids = protocol.COUNTS.unpack(payload)
            self._answered = max(self._answered, ticket)
            hits = LimitHits(oom=oom, pids=pids)
            if hits != self._changes[-1][1]:
                self._changes.append((ticket, hits))

    def _question(self, *, anyway: bool) -> tuple[int, bytes]:
        ticket = next(self._tickets)
        size = protocol.WORDS.size
        return ticket, protocol.COUNT_FRAME.pack(size, self.id, protocol.COUNT, ticket, anyway)

    def note(self) -> Callable[[], LimitHits]:
        """Have them looked at when what is sent next arrives; see ``Container.note_limits``."""
        if self._groups is not None:
            hits = self._seen(self._groups)
            return lambda: hits
        ticket, question = self._question(anyway=False)
        self.link.post(question)
        return lambda: self._at(ticket)

    def _at(self, ticket: int) -> LimitHits:
        with self.link.lock:
            known = [hits for seen, hits in self._changes if seen <= ticket]
            return known[-1] if known else self._changes[0][1]

    def now(self) -> LimitHits:
        """Ask for them; of one that does not answer, what was known last."""
        if self._groups is not None:
            return self._seen(self._groups)
        self.settle()
        with self.link.lock:
            return self._changes[-1][1]

    def _seen(self, groups: Groups) -> LimitHits:
        try:
            hits = groups.hits()
        except (OSError, RockGymError):  # it ends meanwhile
            return self._changes[-1][1]
        self._changes.append((0, hits))
        return hits

    def settle(self) -> None:
        """Wait until the first process has done what it was sent, unless that takes too long."""
        ticket, question = self._question(anyway=True)
        with contextlib.suppress(SandboxLost, SandboxClosed):
            self.link.send(question)
            self.link.wait(self.turn, lambda: self._answered >= ticket, _ANSWER_S)


def is_full(link: Link, places: Iterable[str]) -> bool:
    """Whether nothing more can be written to one of those places. Never raises."""
    for place in places:
        with contextlib.suppress(SandboxLost, SandboxClosed, FileError):
            space = space_of(link, place, _ANSWER_S)
            if space.free_blocks < _FULL_BLOCKS or space.free_files < _FULL_FILES:
                return True
    return False
