"""What the server has given ids to: sandboxes, and environments with an id of their own.

All of it is used on the event loop's thread alone. Blocking calls of the library are the entries'
business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

from rock_gym.sandbox import new_id
from rock_gym.server.failures import Refused
from rock_gym.server.journal import Journal, Row

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

E = TypeVar("E")


class Entry(Protocol):
    """What an id stands for.

    Attributes:
        id: The id.
        kind: ``"sandbox"`` or ``"gem"``.
        state: pending, running, stopped or deleted.
    """

    id: str
    kind: str

    @property
    def state(self) -> str:
        """The state it is in."""

    def is_alive(self) -> bool:
        """Whether it can be used. Never waits."""

    async def status(self) -> dict[str, Any]:
        """Return ``get_status``'s result."""

    def touch(self) -> None:
        """Put its idle deadline off."""

    async def stop(self) -> None:
        """Stop it. Twice is fine."""

    async def delete(self) -> None:
        """End it, and forget it in the registry. Twice is fine."""


class Registry:
    """The entries by their ids.

    Args:
        journal: Where they are written down.
        max_entries: How many there may be.

    Attributes:
        ending: Whether the server is, so that what is deleted now is deleted because of that.
    """

    def __init__(self, journal: Journal, max_entries: int) -> None:
        self.journal = journal
        self.ending = False
        self._max_entries = max_entries
        self._entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def claim(self, wanted: str | None = None) -> str:
        """Return an id for something new: the client's, or one that is drawn.

        Raises:
            Refused: If the client's is in use or no id, or there is too much already.
        """
        if len(self._entries) >= self._max_entries:
            raise Refused(
                f"there are {self._max_entries} sandboxes and environments already; stop and "
                "delete some, or start the server with a larger --max-sandboxes",
                kind="too_many",
                http=503,
            )
        if wanted is None:
            return new_id()
        if not _ID.fullmatch(wanted):
            raise Refused(
                "a sandbox_id has letters, digits, '_', '.' and '-', at most 63, and begins with "
                "a letter or digit; or leave it out"
            )
        if wanted in self._entries:
            raise Refused(
                f"there is a sandbox {wanted} already; stop and delete it, or choose another id",
                kind="duplicate_id",
                http=409,
            )
        return wanted

    def add(self, entry: Entry, info: dict[str, Any]) -> None:
        """Enter something, and write it down."""
        self._entries[entry.id] = entry
        self.journal.write(entry.id, entry.kind, entry.state, info)

    def note(self, entry: Entry, info: dict[str, Any]) -> None:
        """Write down what has changed in an entry that is here."""
        if self._entries.get(entry.id) is entry:
            self.journal.write(entry.id, entry.kind, entry.state, info)

    def forget(self, entry: Entry, how: str = "was deleted, or stopped long ago") -> None:
        """Take out what has ended, and write down how. Twice is fine."""
        if self._entries.get(entry.id) is entry:
            del self._entries[entry.id]
            state = "ended" if self.ending else "deleted"
            self.journal.write(entry.id, entry.kind, state, {"how": how})

    def find(self, entry_id: str) -> Entry | None:
        """Return what an id stands for, if it is here."""
        return self._entries.get(entry_id)

    def get(self, entry_id: str) -> Entry:
        """Return what an id stands for.

        Raises:
            Refused: If that is nothing; says whether it ended, was lost, or never was.
        """
        entry = self._entries.get(entry_id)
        if entry is None:
            raise self.absence(entry_id)
        return entry

    def get_as(self, entry_id: str, cls: type[E], what: str) -> E:
        """Return what an id stands for if it is of a kind.

        Args:
            entry_id: The id.
            cls: What it has to be an instance of.
            what: What that is called.

        Raises:
            Refused: As ``get``, or if it is something else.
        """
        entry = self.get(entry_id)
        if not isinstance(entry, cls):
            raise Refused(
                f"{entry_id} is not {what} but {_KINDS.get(entry.kind, entry.kind)}",
                kind="wrong_kind",
                http=409,
            )
        return entry

    def absence(self, entry_id: str) -> Refused:
        """Return the error for an id that stands for nothing here."""
        row = self.journal.find(entry_id)
        if row is not None and _was_lost(row, self.journal.boot):
            return Refused(
                f"{entry_id} ended with the server that had it; start another one",
                kind="server_restarted",
                http=410,
            )
        if row is not None:
            return Refused(
                f"{entry_id} {row.info.get('how', 'was deleted')}; start another one",
                kind="sandbox_closed",
                http=410,
            )
        return Refused(
            f"there is no sandbox {entry_id[:80]!r}; start one, and use the id in its answer",
            kind="unknown_sandbox",
            http=404,
        )


_KINDS = {"sandbox": "a sandbox", "gem": "an environment; use /apis/v1/envs/gem/"}


def _was_lost(row: Row, boot: str) -> bool:
    return row.boot != boot and row.state != "deleted"
