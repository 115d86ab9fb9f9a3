"""Writing into a sandbox through a descriptor that a process inside has opened for us."""

from __future__ import annotations

import errno
import os
import socket
import time

from rock_gym.backends.launch import receive_reply
from rock_gym.errors import FileError, SandboxLost

_COMMIT_S = 30.0


class DescriptorWriter:
    """A new file beside its target; a process inside renames it. See ``FileWriter``."""

    def __init__(self, fd: int, sock: socket.socket, path: str, sandbox_id: str) -> None:
        self._fd = fd
        self._sock = sock
        self._path = path
        self._sandbox_id = sandbox_id

    def write(self, data: bytes) -> None:
        """Append bytes; see ``FileWriter.write``."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise self._failed(errno.errorcode.get(error.errno or 0, "EIO"), str(error)) from error

    def commit(self) -> None:
        """Put it in place; see ``FileWriter.commit``."""
        try:
            self._sock.send(b"commit")
            reply, _ = receive_reply(self._sock, time.monotonic() + _COMMIT_S)
        except OSError:
            reply = {}
        finally:
            self.abort()
        if "error" in reply:
            raise self._failed(reply["error"], reply.get("text") or reply["error"])
        if not reply.get("done"):
            raise SandboxLost(
                "the sandbox ended while a file was written; start or acquire another one",
                sandbox_id=self._sandbox_id,
            )

    def abort(self) -> None:
        """Give up; see ``FileWriter.abort``."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            # The process inside sees the end of file, and removes what was not renamed.
            self._sock.close()

    def _failed(self, reason: str, text: str) -> FileError:
        return FileError(
            f"{self._path}: {text}", path=self._path, reason=reason, sandbox_id=self._sandbox_id
        )
