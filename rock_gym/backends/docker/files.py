"""Files of a container, read and written by its first process on our behalf.

Not by the engine's archive API, which unpacks as the host's root, and cannot reach tmpfs mounts.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections import deque
from dataclasses import dataclass

from rock_gym.backends.docker import protocol
from rock_gym.backends.docker.link import Handle, Link
from rock_gym.errors import FileError, SandboxClosed, SandboxLost

_ANSWER_S = 60.0
_AHEAD_BYTES = 1 << 20


class _File(Handle):
    """What readers and writers share: one question, one answer."""

    def __init__(self, link: Link, path: str) -> None:
        self.path = path
        self._opened: bytes | None = None
        self._answers: deque[tuple[int, bytes]] = deque()
        super().__init__(link)

    def take(self, kind: int, payload: bytes) -> None:
        """Note a frame; see ``Handle.take``."""
        if kind == protocol.OPENED:
            self._opened = payload
        else:
            self._answers.append((kind, payload))

    def open(self, kind: int, payload: bytes) -> bytes:
        """Open it, and return the rest of the answer.

        Raises:
            FileError: If it cannot be opened.
            SandboxLost: If the container is gone.
        """
        try:
            self.link.send(protocol.frame(self.id, kind, payload))
            if not self.link.wait(self.turn, lambda: self._opened is not None, _ANSWER_S):
                raise self.link.loss()
            assert self._opened is not None
            code = protocol.WORD.unpack_from(self._opened)[0]
            if code:
                raise self.error(code)
        except BaseException:
            self.link.forget(self.id, at_once=True)
            raise
        return self._opened[8:]

    def answer(self, timeout_s: float = _ANSWER_S) -> tuple[int, bytes]:
        """Wait for the next answer."""
        if not self.link.wait(self.turn, lambda: self._answers, timeout_s):
            if self.link.is_open() and not self.is_gone:
                raise SandboxLost(f"the sandbox has not answered for {timeout_s:g} s")
            raise self.link.loss()
        with self.link.lock:
            return self._answers.popleft()

    def error(self, code: int) -> FileError:
        """Return the error for a code of the system."""
        reason = errno.errorcode.get(code, "EIO")
        return FileError(f"{self.path}: {os.strerror(code)}", path=self.path, reason=reason)


@dataclass(frozen=True, slots=True)
class Space:
    """How large the file system at a path is, and what of it is free."""

    total_bytes: int
    free_bytes: int
    free_blocks: int
    free_files: int


def space_of(link: Link, path: str, timeout_s: float = _ANSWER_S) -> Space:
    """Ask how full the file system at a path is.

    Raises:
        FileError: If there is nothing of that path.
        SandboxLost: If the container is gone, or does not answer in time.
    """
    file = _File(link, path)
    try:
        link.send(protocol.frame(file.id, protocol.STATFS, os.fsencode(path) + b"\0"))
        _, data = file.answer(timeout_s)
    finally:
        link.forget(file.id, at_once=False)
    code, *figures = protocol.SPACE.unpack(data)
    if code:
        raise file.error(code)
    return Space(*figures)


class AgentFile(io.RawIOBase):
    """A file inside, open for reading."""

    def __init__(self, link: Link, path: str, absolute: str) -> None:
        self._file = _File(link, path)
        rest = self._file.open(protocol.OPEN_READ, os.fsencode(absolute) + b"\0")
        self._size = int.from_bytes(rest[:8], "little")
        self._at = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read from anywhere."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go elsewhere."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Where it is read next."""
        return self._at

    def readinto(self, buffer: memoryview | bytearray) -> int:  # type: ignore[override]
        """Read into a buffer; see ``io.RawIOBase.readinto``."""
        want = min(len(buffer), _AHEAD_BYTES)
        pieces = [
            (offset, min(protocol.CHUNK_BYTES, want - offset))
            for offset in range(0, want, protocol.CHUNK_BYTES)
        ]
        # All asked for at once; after a short answer the rest is of no use.
        asked = b"".join(
            protocol.frame(
                self._file.id, protocol.PREAD, protocol.AT.pack(self._at + offset, length)
            )
            for offset, length in pieces
        )
        self._file.link.send(asked)
        got, short, error = 0, False, 0
        for _, length in pieces:
            kind, data = self._file.answer()
            if kind != protocol.DATA:
                error = error or protocol.WORD.unpack_from(data)[0]
                short = True
            elif not short:
                buffer[got : got + len(data)] = data
                got += len(data)
                short = len(data) < length
        if error and not got:
            raise OSError(error, os.strerror(error))
        self._at += got
        return got

    def close(self) -> None:
        """Close it. Twice is fine."""
        if not self.closed:
            self._file.link.forget(self._file.id, at_once=False)
        super().close()


class AgentWriter:
    """A file on its way in. See ``FileWriter``."""

    def __init__(self, link: Link, path: str, absolute: str, mode: int | None) -> None:
        self._file = _File(link, path)
        wanted = protocol.WORD.pack(0xFFFFFFFF if mode is None else mode & 0o7777)
        self._file.open(protocol.OPEN_WRITE, wanted + os.fsencode(absolute) + b"\0")
        self._done = False

    def write(self, data: bytes) -> None:
        """Append bytes; see ``FileWriter.write``."""
        rest = memoryview(data)
        file = self._file
        while rest:
            piece = rest[:_AHEAD_BYTES]
            file.link.send(
                b"".join(
                    protocol.frame(
                        file.id, protocol.WRITE, bytes(piece[at : at + protocol.CHUNK_BYTES])
                    )
                    for at in range(0, len(piece), protocol.CHUNK_BYTES)
                )
            )
            rest = rest[len(piece) :]
            file.link.look()
            if file._answers:  # it says something only if it fails
                self._finish()

    def commit(self) -> None:
        """Put it in place; see ``FileWriter.commit``."""
        self._file.link.send(protocol.frame(self._file.id, protocol.COMMIT))
        self._finish()

    def _finish(self) -> None:
        _, answer = self._file.answer()
        self.abort()
        code = protocol.WORD.unpack_from(answer)[0]
        if code:
            raise self._file.error(code)

    def abort(self) -> None:
        """Give up; see ``FileWriter.abort``."""
        if not self._done:
            self._done = True
            with contextlib.suppress(SandboxLost, SandboxClosed):
                self._file.link.forget(self._file.id, at_once=True)
