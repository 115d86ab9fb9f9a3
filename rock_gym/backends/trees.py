"""Trees of files in and out of an embedded sandbox, through descriptors of files inside.

A process inside walks or builds the tree, as the sandbox's user and under its rules; the contents
go straight between the descriptors, and nothing but descriptors and names crosses the border.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple
from typing import IO, Any

from rock_gym.backends.files import DescriptorWriter
from rock_gym.backends.handles import Entry
from rock_gym.backends.launch import receive_reply
from rock_gym.errors import SandboxLost

_ANSWER_S = 30.0


class _Dialogue:
    """Talks with the process inside that serves one tree.

    Args:
        sock: The socket to it.
        path: The root, for errors.
        fail: Turns its report of a failure into an error.
    """

    def __init__(
        self, sock: socket.socket, path: str, fail: Callable[[str, dict[str, Any]], Exception]
    ) -> None:
        self.sock = sock
        self.path = path
        self._fail = fail

    def hear(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for its next message; a failure is raised."""
        try:
            deadline = time.monotonic() + _ANSWER_S
            reply, fds = receive_reply(self.sock, deadline)
            if not reply:
                # That it has ended without hearing us out hides, once, what it said before.
                reply, fds = receive_reply(self.sock, deadline)
        except TimeoutError:
            raise SandboxLost(
                f"the sandbox has not answered for {_ANSWER_S:g} s; start or acquire another one"
            ) from None
        except OSError:
            reply, fds = {}, []
        if "error" in reply:
            inner = reply.get("path")
            raise self._fail(f"{self.path.rstrip('/')}/{inner}" if inner else self.path, reply)
        if not reply or "pid" in reply:
            # It was killed, by the end of its sandbox or by somebody inside.
            raise self._fail(self.path, {"error": "lost"})
        return reply, fds

    def say(self, message: object) -> None:
        """Send it a message; should it have ended, ``hear`` tells why."""
        try:
            self.sock.send(json.dumps(message).encode())
        except OSError:
            self.hear()

    def close(self) -> None:
        """End it, upon which the process inside ends. Twice is fine."""
        self.sock.close()


class DescriptorTreeReader:
    """Reads a tree; see ``TreeReader``."""

    def __init__(
        self, sock: socket.socket, path: str, fail: Callable[[str, dict[str, Any]], Exception]
    ) -> None:
        self._dialogue = _Dialogue(sock, path, fail)
        self.total_bytes: int = self._dialogue.hear()[0]["total"]

    def __iter__(self) -> Iterator[tuple[Entry, IO[bytes] | None]]:
        """Go through the entries; see ``TreeReader.__iter__``."""
        while True:
            reply, fds = self._dialogue.hear()
            if "done" in reply:
                return
            file = os.fdopen(fds[0], "rb", buffering=0) if fds else None
            yield Entry(*reply["entry"]), file

    def close(self) -> None:
        """Give up; see ``TreeReader.close``."""
        self._dialogue.close()


class DescriptorTreeWriter:
    """Writes a tree; see ``TreeWriter``."""

    def __init__(
        self,
        sock: socket.socket,
        path: str,
        sandbox_id: str,
        fail: Callable[[str, dict[str, Any]], Exception],
    ) -> None:
        self._sandbox_id = sandbox_id
        self._dialogue = _Dialogue(sock, path, fail)
        self._dialogue.hear()

    def add(self, entry: Entry) -> _TreeFile | None:
        """Place an entry; see ``TreeWriter.add``."""
        self._dialogue.say(astuple(entry))
        if entry.kind != "file":
            return None
        _, fds = self._dialogue.hear()
        path = os.path.join(self._dialogue.path, entry.path) if entry.path else self._dialogue.path
        return _TreeFile(fds[0], self._dialogue, path, self._sandbox_id)

    def finish(self) -> None:
        """Wait until all is in place; see ``TreeWriter.finish``."""
        self._dialogue.say("finish")
        self._dialogue.hear()
        self.abort()

    def abort(self) -> None:
        """Give up; see ``TreeWriter.abort``."""
        self._dialogue.close()


class _TreeFile(DescriptorWriter):
    """One file of a tree: it ends with the dialogue, which goes on after it."""

    def __init__(self, fd: int, dialogue: _Dialogue, path: str, sandbox_id: str) -> None:
        super().__init__(fd, dialogue.sock, path, sandbox_id)
        self._dialogue = dialogue

    def commit(self) -> None:
        """Put it in place; see ``FileWriter.commit``."""
        self._close()
        self._dialogue.sock.send(b"commit")
        self._dialogue.hear()

    def abort(self) -> None:
        """Give up; see ``FileWriter.abort``."""
        # The process inside removes what was not renamed when it hears nothing more.
        if self._close():
            self._dialogue.close()

    def _close(self) -> bool:
        opened, fd = self._fd >= 0, self._fd
        self._fd = -1
        if opened:
            os.close(fd)
        return opened
