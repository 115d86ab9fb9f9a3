"""The host's end of sockets to guests: deadlines, and a firm hold on the process at the other end.

A process is known by the credentials that the kernel adds to what it sends, and held by a pidfd.
What it says of itself is worth nothing.
"""

from __future__ import annotations

import array
import contextlib
import functools
import math
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from rock_gym.backends.handles import Line
from rock_gym.gem import wire

__all__ = ["EnvChannel", "HostChannel"]

_CREDENTIALS = struct.Struct("3i")

# More than poll takes, and as good as for ever.
_LONGEST_S = 2_000_000.0

T = TypeVar("T")


class HostChannel(Generic[T]):
    """The host's end of a socket, for one thread at a time.

    Args:
        sock: The connected socket. The channel owns it.
        decoder: For what comes in.
    """

    # One of many is cold when its turn comes: what is in one place is there sooner.
    __slots__ = ("_frames", "_poll", "_recv", "_send", "_sock")

    def __init__(self, sock: socket.socket | Line, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._sock = sock
        self._frames = wire.Frames(decoder)
        self._poll: select.poll | Line
        if isinstance(sock, socket.socket):
            # Deadlines are kept by poll alone: with a timeout of its own, the socket would poll
            # before each write too.
            sock.setblocking(False)
            self._poll = select.poll()
            self._poll.register(sock, select.POLLIN)
        else:
            self._poll = sock
        self._recv: Callable[[], bytes] = functools.partial(sock.recv, wire.CHUNK_BYTES)
        self._send = sock.send

    def fileno(self) -> int:
        """The socket's descriptor, to poll; -1 once closed."""
        return self._sock.fileno()

    def send(self, message: msgspec.Struct, timeout_s: float) -> None:
        """Send one message.

        Raises:
            WireError: If it is too large; nothing was sent.
            TimeoutError: If the other end does not read in time.
            OSError: If the other end is gone.
        """
        frame = wire.encode(message)
        try:
            sent = self._send(frame)
        except BlockingIOError:
            sent = 0
        if sent < len(frame):
            self._send_rest(memoryview(frame)[sent:], timeout_s)

    def _send_rest(self, rest: memoryview, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while rest:
            self._await_room(deadline - time.monotonic())
            with contextlib.suppress(BlockingIOError):
                rest = rest[self._sock.send(rest) :]

    def _await_room(self, timeout_s: float) -> None:
        milliseconds = _milliseconds(timeout_s)
        if isinstance(self._sock, socket.socket):
            poll = select.poll()
            poll.register(self._sock, select.POLLOUT)
            ready = bool(poll.poll(milliseconds))
        else:
            ready = self._sock.poll_room(milliseconds)
        if not ready:
            raise TimeoutError("the other end does not read")

    def send_socket(self, message: msgspec.Struct, passed: socket.socket, timeout_s: float) -> None:
        """Send one small message with a socket; raises as ``send``."""
        assert isinstance(self._sock, socket.socket)
        frame = wire.encode(message)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed.fileno()]))]
        deadline = time.monotonic() + timeout_s
        while True:
            # Small enough to go out whole or not at all.
            with contextlib.suppress(BlockingIOError):
                self._sock.sendmsg([frame], rights)
                return
            self._await_room(deadline - time.monotonic())

    def pass_line(self, message: msgspec.Struct) -> Line:
        """Send one small message over a line, with a socket; raises as ``send``.

        Returns:
            Our end of a line to that socket.
        """
        assert not isinstance(self._sock, socket.socket)
        return self._sock.pass_line(wire.encode(message))

    def receive(self, timeout_s: float | None = None) -> T:
        """Wait for one message. What has come of it when the time is up is kept for next time.

        Args:
            timeout_s: Seconds to wait; 0 to take only what is there; None for ever.

        Raises:
            TimeoutError: If there is none in time.
            EOFError: If the other end is gone.
            WireError: If what came is no message.
        """
        frames = self._frames
        message = frames.take() if frames.rest else None
        deadline = None
        while message is None:
            if not self._poll.poll(_milliseconds(timeout_s)):
                raise TimeoutError
            try:
                data = self._recv()
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError("the other end is gone")
            message = frames.take(data)
            # The clock is asked only when one read was not enough.
            if message is None and timeout_s is not None:
                now = time.monotonic()
                deadline = deadline or now + timeout_s
                timeout_s = deadline - now
        return message

    def take(self) -> T | None:
        """Return the next message, or None at once if it is not all there; raises as ``receive``.

        Cheaper than ``receive``: nothing is polled.
        """
        frames = self._frames
        message = frames.take() if frames.rest else None
        while message is None:
            try:
                data = self._recv()
            except BlockingIOError:
                return None
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError("the other end is gone")
            message = frames.take(data)
        return message

    def close(self) -> None:
        """Close the socket. Twice is fine."""
        self._sock.close()


def _milliseconds(seconds: float | None) -> int | None:
    if seconds is None or seconds > _LONGEST_S:
        return None
    return math.ceil(seconds * 1000) if seconds > 0 else 0


class EnvChannel(HostChannel[wire.EnvReply]):
    """The socket to an environment's process.

    Args:
        sock: The socket; the channel owns it.

    Attributes:
        pidfd: The process, or None before it has said hello.
        pid: Its process id here; over a line, the one it has inside.
        greeted: Whether its hello was received.
    """

    __slots__ = ("_lock", "_recv_rest", "greeted", "pid", "pidfd")

    def __init__(self, sock: socket.socket | Line) -> None:
        super().__init__(sock, wire.ENV_REPLIES)
        self.pidfd: int | None = None
        self.pid: int | None = None
        self.greeted = False
        self._lock = threading.Lock()
        if not isinstance(sock, socket.socket):
            return  # the process is not one of this machine: its line has hold of it
        # The kernel then adds the sender's pid to what comes, as it is on this side of the
        # sandbox's process namespace.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._recv_rest, self._recv = self._recv, self._recv_first

    @property
    def heard(self) -> bool:
        """Whether the process has ever said anything, and so was there."""
        if isinstance(self._sock, socket.socket):
            return self.pid is not None
        return self._sock.heard

    def is_there(self) -> bool:
        """Whether the process is there; True also where sending will tell."""
        return isinstance(self._sock, socket.socket) or self._sock.is_there()

    def greet(self, timeout_s: float | None = None) -> wire.EnvReply:
        """Wait for the process's hello and for what comes after it; raises as ``receive``."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._check_hello(self.receive(timeout_s))
        return self.receive(None if deadline is None else deadline - time.monotonic())

    def take_greeted(self) -> wire.EnvReply | None:
        """As ``take``, for a process that may not have said hello yet."""
        if not self.greeted:
            hello = self.take()
            if hello is None:
                return None
            self._check_hello(hello)
        return self.take()

    def _check_hello(self, message: wire.EnvReply) -> None:
        if not isinstance(message, wire.Hello):
            raise wire.WireError(f"a {type(message).__name__} came before any hello")
        self.greeted = True
        if not isinstance(self._sock, socket.socket):
            self.pid = self._sock.pid

    def _recv_first(self) -> bytes:
        """Read with the sender's credentials, once: later reads cost less without."""
        assert isinstance(self._sock, socket.socket)
        room = socket.CMSG_SPACE(_CREDENTIALS.size)
        data, ancillary, _, _ = self._sock.recvmsg(wire.CHUNK_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, part in ancillary if data else ():
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                self._hold(_CREDENTIALS.unpack(part[: _CREDENTIALS.size])[0])
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        self._recv = self._recv_rest
        return data

    def _hold(self, pid: int) -> None:
        """Get hold of the process, so that its number may be used again without harm."""
        self.pid = pid
        if pid <= 0:
            raise wire.WireError("the environment's process is not one of this machine")
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        # If it had ended before, the number could be another's by now.
        poll = select.poll()
        poll.register(self._sock, 0)
        if poll.poll(0):
            os.close(pidfd)
        else:
            self.pidfd = pidfd

    def kill(self) -> None:
        """Kill the process, if there is one. From any thread: a receive ends by it."""
        if not isinstance(self._sock, socket.socket):
            self._sock.kill()
            self._sock.close()
            return
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all descriptors and do nothing else. Twice is fine."""
        with self._lock:
            pidfd, self.pidfd = self.pidfd, None
            if pidfd is not None:
                os.close(pidfd)
        super().close()
