"""Our end of a socket inside a container: what it carries goes over the container's one stream."""

from __future__ import annotations

import contextlib
import os
from collections import deque

from rock_gym.backends.docker import protocol
from rock_gym.backends.docker.link import Handle, Link
from rock_gym.errors import SandboxClosed, SandboxLost

_GRANT_BYTES = protocol.OUTPUT_WINDOW // 4
_PASS_S = 10.0
CREDIT = protocol.WORD.pack(protocol.OUTPUT_WINDOW)


class AgentLine(Handle):
    """See ``Line``.

    Args:
        link: The container's stream.
        number: The id it has already, as the channel of a process; None to be given one.
    """

    def __init__(self, link: Link, number: int | None = None) -> None:
        self.heard = False
        self.pid: int | None = None
        self._chunks: deque[bytes] = deque()
        self._answers = 0
        self._ended = self._broken = self._closed = False
        self._room = protocol.INPUT_WINDOW
        self._consumed = 0
        self._event: int | None = None
        super().__init__(link, number)

    def take(self, kind: int, payload: bytes) -> None:
        """Note a frame; see ``Handle.take``."""
        if kind == protocol.OUTPUT:
            self.heard = True
            self._chunks.append(payload)
        elif kind == protocol.END:
            self._ended = self._broken = True
        elif kind == protocol.ROOM:
            self._room += protocol.WORDS.unpack(payload)[0]
        elif kind == protocol.BROKEN:
            self._broken = True
        elif kind == protocol.OPENED:
            self._answers += 1
        elif kind == protocol.WRITER_IS:
            self.pid = protocol.WORDS.unpack(payload)[0]
        if self._event is not None and kind in (protocol.OUTPUT, protocol.END):
            os.eventfd_write(self._event, 1)

    def lose(self) -> None:
        """Note that the container is gone; see ``Handle.lose``."""
        if self._event is not None:
            os.eventfd_write(self._event, 1)

    # As a socket

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to receive; -1 once closed.

        From the first call on a thread reads for the container, as nobody else might.
        """
        with self.link.lock:
            if self._closed:
                return -1
            if self._event is None:
                pending = bool(self._chunks) or self._ended or self.is_gone
                self._event = os.eventfd(int(pending), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.link.keep_reading()
        return self._event

    def poll(self, timeout_ms: int | None) -> bool:
        """Wait until there is something to receive, or its end."""
        seconds = None if timeout_ms is None else timeout_ms / 1000
        ready = self.link.wait(
            self.turn, lambda: self._chunks or self._ended or self._closed, seconds
        )
        return ready or self.is_gone

    def poll_room(self, timeout_ms: int | None) -> bool:
        """Wait until something can be sent."""
        seconds = None if timeout_ms is None else timeout_ms / 1000
        ready = self.link.wait(self.turn, lambda: self._room or self._broken, seconds)
        return ready or self.is_gone

    def recv(self, count: int) -> bytes:
        """Take what is there, at most one frame; nothing at the end.

        Raises:
            BlockingIOError: If there is nothing yet.
        """
        if not self._chunks:
            self.link.look()
        with self.link.lock:
            if not self._chunks:
                if self._ended or self._closed or self.is_gone:
                    return b""
                raise BlockingIOError
            data = self._chunks.popleft()
            if len(data) > count:
                self._chunks.appendleft(data[count:])
                data = data[:count]
            if self._event is not None and not self._chunks and not self._ended:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._event)
            self._consumed += len(data)
            grant = self._consumed if self._consumed >= _GRANT_BYTES else 0
            self._consumed -= grant
        if grant:
            with contextlib.suppress(SandboxLost, SandboxClosed):
                self._send(protocol.CREDIT, protocol.WORD.pack(grant))
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Send as much as there is room for. Returns how much that was.

        Raises:
            BlockingIOError: If there is no room.
            BrokenPipeError: If the other end is gone.
        """
        with self.link.lock:
            if self._broken or self._closed or self.is_gone:
                raise BrokenPipeError("the other end is gone")
            count = min(len(data), self._room, protocol.CHUNK_BYTES)
            if not count:
                raise BlockingIOError
            self._room -= count
        try:
            self._send(protocol.INPUT, bytes(data[:count]))
        except (SandboxLost, SandboxClosed) as error:
            raise BrokenPipeError(error.message) from error
        return count

    def _send(self, kind: int, payload: bytes = b"") -> None:
        self.link.send(protocol.frame(self.id, kind, payload))

    # What a socket cannot do

    def pass_line(self, data: bytes) -> AgentLine:
        """Send a message along with one end of a new socket. Returns our end of that.

        Raises:
            BrokenPipeError: If the other end is gone.
        """
        line = AgentLine(self.link)
        try:
            self.link.send(
                protocol.frame(self.id, protocol.PASS, protocol.WORD.pack(line.id) + data)
                + protocol.frame(line.id, protocol.CREDIT, CREDIT)
            )
            # It may never be read, but whether there is anybody to read it is known inside.
            self.link.wait(line.turn, lambda: line._answers or line._ended, _PASS_S)
            if not line._answers:
                raise BrokenPipeError("the other end is gone")
        except (SandboxLost, SandboxClosed) as error:
            line.close()
            raise BrokenPipeError(error.message) from error
        except BaseException:
            line.close()
            raise
        return line

    def is_there(self) -> bool:
        """Ask whether the other end is there, by a round trip into the container."""
        before = self._answers
        with contextlib.suppress(SandboxLost, SandboxClosed):
            self._send(protocol.PROBE)
            self.link.wait(self.turn, lambda: self._answers > before or self._ended, _PASS_S)
        return self._answers > before and not self._broken

    def kill(self) -> None:
        """Kill the process that writes at the other end, and all below it. Never waits."""
        with contextlib.suppress(SandboxLost, SandboxClosed):
            self._send(protocol.KILL)

    def close(self) -> None:
        """Hang up. Twice is fine. In a forked child it only lets go."""
        # There another thread may hold the lock for ever.
        with self.link.lock if self.link.is_ours() else contextlib.nullcontext():
            self._closed = True
            event, self._event = self._event, None
            if self.link.is_ours():
                self.turn.notify_all()
        self.link.forget(self.id, at_once=True)
        if event is not None:
            os.close(event)
