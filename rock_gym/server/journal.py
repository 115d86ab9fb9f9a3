"""What a server remembers beyond its end: which ids it gave out, and what became of each.

A file of SQLite, written as things happen: what a killed server knew a moment before is there. An
id that the next one finds in it, and nothing else of, was lost with the restart; an id that nobody
finds was never given out.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rock_gym.errors import BackendUnavailable

# Of the tables below. What another version has written is of no use.
_VERSION = 1
_WRITES_PER_SWEEP = 10_000
_DELETED_KEPT_S = 3600.0
_KEPT_S = 14 * 86400.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS servers (
    boot TEXT PRIMARY KEY, owner TEXT, leases INTEGER, started_s REAL
);
CREATE TABLE IF NOT EXISTS entries (
    id TEXT PRIMARY KEY, kind TEXT, boot TEXT, state TEXT, info TEXT, changed_s REAL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of an id.

    Attributes:
        id: The id.
        kind: ``"sandbox"``, or what else it stands for.
        state: The last state that was written down.
        boot: The server that wrote it.
        info: What else was written, JSON-like.
    """

    id: str
    kind: str
    state: str
    boot: str
    info: dict[str, Any]


class Journal:
    """The file. Used by one thread, the event loop's: a write takes some microseconds.

    Args:
        path: Where it is; None keeps it in memory.
        owner: Which process this is, for whoever finds its containers.
        leases: Whether it starts containers that outlive it.
    """

    def __init__(self, path: str | None, owner: str, leases: bool) -> None:
        self.boot = secrets.token_hex(8)
        self._owner = owner
        self._writes = 0
        self._lock: int | None = None
        try:
            if path is not None:
                self._lock = _lock(path)
            self._db = _open(path or ":memory:")
        except (OSError, sqlite3.Error) as error:
            self._unlock()
            raise BackendUnavailable(
                f"the server's state cannot be kept in {path}: {error}; pass another --state"
            ) from error
        now = time.time()
        self._db.execute("DELETE FROM entries WHERE changed_s < ?", (now - _KEPT_S,))
        self._db.execute("DELETE FROM servers WHERE started_s < ?", (now - _KEPT_S,))
        self._db.execute("INSERT INTO servers VALUES (?, ?, ?, ?)", (self.boot, owner, leases, now))

    def write(self, entry_id: str, kind: str, state: str, info: dict[str, Any]) -> None:
        """Write down what an id is now."""
        self._writes += 1
        if self._writes % _WRITES_PER_SWEEP == 0:
            self._sweep()
        self._db.execute(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)",
            (entry_id, kind, self.boot, state, json.dumps(info), time.time()),
        )

    def _sweep(self) -> None:
        """Forget ids that were deleted a while ago: environments may be made by the million."""
        old = time.time() - _DELETED_KEPT_S
        self._db.execute("DELETE FROM entries WHERE state = 'deleted' AND changed_s < ?", (old,))

    def find(self, entry_id: str) -> Row | None:
        """Return what is known of an id."""
        found = self._db.execute(
            "SELECT id, kind, state, boot, info FROM entries WHERE id = ?", (entry_id,)
        ).fetchone()
        return None if found is None else _row(found)

    def left(self) -> list[Row]:
        """Return what earlier servers had when they ended."""
        found = self._db.execute(
            "SELECT id, kind, state, boot, info FROM entries "
            "WHERE boot != ? AND state IN ('pending', 'running', 'stopped')",
            (self.boot,),
        )
        return [_row(row) for row in found]

    def earlier_owners(self) -> list[str]:
        """Return which processes the earlier servers were that may have left containers."""
        found = self._db.execute(
            "SELECT owner FROM servers WHERE leases AND owner != ?", (self._owner,)
        )
        return [owner for (owner,) in found]

    def close(self) -> None:
        """Close the file. Twice is fine."""
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _open(path: str) -> sqlite3.Connection:
    # Made where the application is, and used where its loop runs: by one thread after the other.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # To be there after a kill, it need not reach the disk. WAL, since a server that was killed in
    # the middle of a write must not leave a file that has to be mended first.
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=OFF")
    if db.execute("PRAGMA user_version").fetchone() != (_VERSION,):
        db.executescript("DROP TABLE IF EXISTS servers; DROP TABLE IF EXISTS entries;")
        db.execute(f"PRAGMA user_version={_VERSION}")
    db.executescript(_SCHEMA)
    return db


def _row(values: tuple[str, str, str, str, str]) -> Row:
    return Row(*values[:4], info=json.loads(values[4]))


def _lock(path: str) -> int:
    """Make sure that no other server writes there."""
    Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BackendUnavailable(
            f"another server keeps its state in {path}; end it, or pass another --state"
        ) from None
    return lock
