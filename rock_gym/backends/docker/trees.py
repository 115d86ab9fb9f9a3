"""Whole folders in and out of a container, which a child of its first process reads and writes.

Both sides send on without waiting for answers, so that many small files cost no round trips: what
goes wrong with one entry may be told while a later one is sent. ``agent/trees.c`` has the same
records.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal, cast

from rock_gym.backends.docker.link import Link
from rock_gym.backends.docker.process import AgentProcess
from rock_gym.backends.handles import Entry
from rock_gym.errors import FileError, SandboxClosed, SandboxLost

# What, kind, mode, length of the path, length of the target, error, size, time.
_RECORD = struct.Struct("<6IQq")
_PIECE = struct.Struct("<i")
_ENTRY, _ERROR, _TOTAL, _DONE, _ATTRIBUTES, _END = range(1, 7)
_KINDS: dict[int, Literal["file", "directory", "link", "other"]] = {
    1: "file",
    2: "directory",
    3: "link",
    4: "other",
}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_LONGEST_PATH = 257 * 256
_PIECE_BYTES = 65536
_ANSWER_S = 60.0
_ABORT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Record:
    what: int
    kind: int
    mode: int
    error: int
    size: int
    mtime_ns: int
    path: str
    target: str


class _Servant:
    """The child inside, and what it says."""

    def __init__(self, link: Link, path: str, absolute: str, *, writes: bool) -> None:
        self.path = path
        self._link = link
        self._buffer = bytearray()
        try:
            self.process = AgentProcess(link)
        except BlockingIOError as error:
            raise FileError(str(error), path=path, reason="EMFILE") from None
        try:
            self.process.start_tree(os.fsencode(absolute), path, writes=writes)
        except BaseException:
            self.process.close()
            raise

    def read(self, count: int) -> bytes:
        """Wait for so many bytes.

        Raises:
            FileError: If it was killed.
            SandboxLost: If the container is gone.
            SandboxClosed: If we ended that.
        """
        deadline = time.monotonic() + _ANSWER_S
        while len(self._buffer) < count:
            if not self._more(deadline - time.monotonic()):
                raise self._error(errno.EINTR, "", "what copies it was killed; try again")
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _more(self, timeout_s: float) -> bool:
        """Wait for more. Returns whether there was any; not at its end."""
        if self.process.exit_code is not None:
            return False
        chunks = self._received(timeout_s)
        if not chunks and self.process.exit_code is None:
            raise SandboxLost(f"the sandbox has not answered for {_ANSWER_S:g} s")
        for _, data in chunks:
            self._buffer += data
        return bool(chunks)

    def _received(self, timeout_s: float) -> list[tuple[int, bytes]]:
        try:
            return self.process.receive(max(timeout_s, 0.0))
        except SandboxLost:
            raise self._link.loss() from None  # which may be our doing

    def record(self) -> _Record:
        """Wait for its next record; a failure is raised."""
        fields = _RECORD.unpack(self.read(_RECORD.size))
        what, kind, mode, path_length, target_length, error, size, mtime_ns = fields
        if max(path_length, target_length) > _LONGEST_PATH:
            raise self._error(errno.EPROTO)
        names = self.read(path_length + target_length)
        path, target = os.fsdecode(names[:path_length]), os.fsdecode(names[path_length:])
        if what == _ERROR:
            raise self._error(error, path)
        return _Record(what, kind, mode, error, size, mtime_ns, path, target)

    def disorder(self) -> FileError:
        """Return the error for what makes no sense."""
        return self._error(errno.EPROTO)

    def _error(self, code: int, inner: str = "", text: str = "") -> FileError:
        path = f"{self.path.rstrip('/')}/{inner}" if inner else self.path
        return FileError(
            f"{path}: {text or os.strerror(code)}",
            path=path,
            reason=errno.errorcode.get(code, "EIO"),
        )

    def send(self, data: bytes) -> None:
        """Send it something; if it has ended, what it said last is raised."""
        try:
            self.process.send(data)
        except BrokenPipeError:
            self.record()
            raise self.disorder() from None

    def has_spoken(self) -> bool:
        """Whether it has said something. A writer does so only in the end, or when it fails."""
        return bool(self._buffer) or self._more_at_once()

    def _more_at_once(self) -> bool:
        for _, data in self._received(0):
            self._buffer += data
        return bool(self._buffer) or self.process.exit_code is not None

    def close(self, *, kill: bool) -> None:
        """Give up. Twice is fine."""
        if kill:
            self.process.kill()
        self.process.close()


class AgentTreeReader:
    """Reads a tree; see ``TreeReader``."""

    def __init__(self, link: Link, path: str, absolute: str) -> None:
        self._servant = _Servant(link, path, absolute, writes=False)
        try:
            self.total_bytes = self._servant.record().size
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[tuple[Entry, IO[bytes] | None]]:
        """Go through the entries; see ``TreeReader.__iter__``."""
        while (found := self._servant.record()).what != _DONE:
            kind = _KINDS.get(found.kind)
            if found.what != _ENTRY or kind is None:
                raise self._servant.disorder()
            entry = Entry(
                found.path, kind, found.mode & 0o777, found.mtime_ns, found.size, found.target
            )
            if kind != "file":
                yield entry, None
                continue
            content = _Content(self._servant)
            yield entry, cast("IO[bytes]", content)
            content.drain()

    def close(self) -> None:
        """Give up; see ``TreeReader.close``."""
        self._servant.close(kill=True)


class _Content(io.RawIOBase):
    """The content of one file, which comes in pieces."""

    def __init__(self, servant: _Servant) -> None:
        self._servant = servant
        self._left = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview | bytearray) -> int:  # type: ignore[override]
        self._begin_piece()
        count = min(self._left, len(buffer))
        buffer[:count] = self._servant.read(count)
        self._left -= count
        return count

    def _begin_piece(self) -> None:
        if self._left or self._ended:
            return
        (length,) = _PIECE.unpack(self._servant.read(_PIECE.size))
        if length > _PIECE_BYTES:
            raise self._servant.disorder()
        if length >= 0:
            self._left = length
            return
        self._ended = True
        (code,) = _PIECE.unpack(self._servant.read(_PIECE.size))
        if code:
            raise OSError(code, os.strerror(code))

    def drain(self) -> None:
        """Pass over what nobody has read."""
        while not self._ended:
            self._servant.read(self._left)
            self._left = 0
            self._begin_piece()


class AgentTreeWriter:
    """Writes a tree; see ``TreeWriter``."""

    def __init__(self, link: Link, path: str, absolute: str) -> None:
        self._servant = _Servant(link, path, os.path.normpath(absolute), writes=True)
        self._pending = bytearray()
        self._folders: list[Entry] = []
        self._ended = False

    def add(self, entry: Entry) -> _TreeFile | None:
        """Place an entry; see ``TreeWriter.add``."""
        self._put(_ENTRY, entry)
        if entry.kind == "directory":
            self._folders.append(entry)
        return _TreeFile(self) if entry.kind == "file" else None

    def _put(self, what: int, entry: Entry) -> None:
        path, target = os.fsencode(entry.path), os.fsencode(entry.target)
        self.send(
            _RECORD.pack(
                *(what, _NUMBERS[entry.kind], entry.mode, len(path), len(target), 0),
                *(entry.size, entry.mtime_ns),
            )
            + path
            + target
        )

    def send(self, data: bytes) -> None:
        """Have something go in, at the latest with what completes a piece."""
        self._pending += data
        if len(self._pending) >= _PIECE_BYTES:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending = bytes(self._pending), bytearray()
        if self._servant.has_spoken():
            self._servant.record()
            raise self._servant.disorder()
        self._servant.send(pending)

    def finish(self) -> None:
        """Wait until all is in place; see ``TreeWriter.finish``."""
        while self._folders:
            self._put(_ATTRIBUTES, self._folders.pop())
        self._pending += _RECORD.pack(_END, *(0,) * 7)
        self._flush()
        if self._servant.record().what != _DONE:
            raise self._servant.disorder()
        self._ended = True
        self._servant.close(kill=False)

    def abort(self) -> None:
        """Give up; see ``TreeWriter.abort``."""
        if self._ended:
            return
        self._ended = True
        process = self._servant.process
        # It removes what it has begun when it hears nothing more, which should be over by the time
        # that somebody looks.
        process.close_stdin()
        with contextlib.suppress(SandboxLost, SandboxClosed):  # and so is everything in it
            process.wait(_ABORT_S)
        self._servant.close(kill=True)


class _TreeFile:
    """One file of a tree; see ``FileWriter``."""

    def __init__(self, writer: AgentTreeWriter) -> None:
        self._writer = writer
        self._committed = False

    def write(self, data: bytes) -> None:
        """Append bytes; see ``FileWriter.write``."""
        for at in range(0, len(data), _PIECE_BYTES):
            piece = data[at : at + _PIECE_BYTES]
            self._writer.send(_PIECE.pack(len(piece)) + piece)

    def commit(self) -> None:
        """Put it in place; see ``FileWriter.commit``."""
        self._writer.send(_PIECE.pack(-1))
        self._committed = True

    def abort(self) -> None:
        """Give up, and with it the whole copy; see ``FileWriter.abort``."""
        if not self._committed:
            self._writer.abort()
