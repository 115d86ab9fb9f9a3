"""The byte stream to a container's first process, shared by all that runs inside.

It is the engine's, or a socket beside that, which then only tells the container that we live.

Reads happen in the threads that wait: one of them reads for all, and hands that duty on when it
has what it waited for. So a command in an open session costs a write, a poll and a read, and no
thread is woken. Nothing reads in between; each process may send no more than it was granted, so
that what one caller leaves unread never holds up another.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from rock_gym.backends.docker import protocol
from rock_gym.backends.docker.framing import Pieces
from rock_gym.errors import SandboxClosed, SandboxLost

# How long an engine may refuse to take what we write before it counts as gone.
_SEND_S = 30.0
_READ_BYTES = 1 << 18
_GENERATIONS = 0x3FFFFF

_open: weakref.WeakSet[Link] = weakref.WeakSet()


class Handle:
    """One thing inside that frames come from. Subclasses say what to do with them."""

    def __init__(self, link: Link, number: int | None = None) -> None:
        self.link = link
        self.turn = threading.Condition(link.lock)
        self.id = link.take_id(self, number)

    @property
    def is_gone(self) -> bool:
        """Whether nothing will come any more."""
        return self.link.dead or self.turn in self.link.gone

    def take(self, kind: int, payload: bytes) -> None:
        """Note a frame. Called with the link's lock held, by whatever thread reads."""
        raise NotImplementedError

    def lose(self) -> None:
        """Note that no more will come. Called with the link's lock held."""


class Link:
    """Our end of the stream. All methods may be called from any thread.

    Args:
        sock: The stream, attached to the container's standard streams.
        early: What came with the answer to the attachment.
        sandbox_id: For errors.
        mark: What comes before the first frame, where we join in the middle of something.

    Attributes:
        lock: Held to look at what handles have noted.
        greeting: The agent's first frame, once it has come.
        gone: Of handles from before a stop.
        stopped: Whether we have stopped what runs inside.
        takes_sockets: Whether sockets can be passed in.
    """

    def __init__(
        self, sock: socket.socket, early: bytes, sandbox_id: str, mark: bytes = b""
    ) -> None:
        self.lock = threading.Lock()
        self.greeting: bytes | None = None
        self.takes_sockets = False
        self.dead = self.stopped = False
        self.gone: weakref.WeakSet[threading.Condition] = weakref.WeakSet()
        self.why_dead: Callable[[], str] = lambda: "it ended by itself or was killed from outside"
        self._closed = self._freed = False
        self._sandbox_id = sandbox_id
        self._owner = os.getpid()
        self._socks: list[socket.socket] = []
        self._pieces: Pieces | None = Pieces(early)
        self._listen_to(sock)
        self._send_lock = threading.Lock()
        self._pending: list[bytes] = []
        self._reading = False
        self._waiting: dict[threading.Condition, None] = {}
        self._handles: dict[int, Handle] = {}
        self._free = deque(range(0, protocol.SLOTS, 2))
        self._generation = 1
        self._frames = bytearray()
        self._mark = mark
        self._hello = threading.Condition(self.lock)
        self._reader: threading.Thread | None = None
        _open.add(self)

    def _listen_to(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._socks.append(sock)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def move_to(self, sock: socket.socket) -> None:
        """Go on over a socket that the first process has come to, before anything else is sent."""
        with self._send_lock, self.lock:
            self._listen_to(sock)
            self._pieces = None
            self.takes_sockets = True

    @property
    def error_text(self) -> bytes:
        """What the container printed before the agent took over."""
        return self._pieces.error_text if self._pieces is not None else b""

    # Handles

    def take_id(self, handle: Handle, number: int | None = None) -> int:
        """Give a handle a number, whose successor is then free for a channel of it."""
        with self.lock:
            if number is None:
                if not self._free:
                    raise BlockingIOError("too many processes and files are open in the sandbox")
                self._generation = self._generation % _GENERATIONS + 1
                number = self._generation * protocol.SLOTS + self._free.popleft()
            self._handles[number] = handle
            return number

    def forget(self, number: int, *, at_once: bool) -> None:
        """Give up a handle on both sides. Twice is fine."""
        if not self.is_ours():
            return
        with self.lock:
            if self._handles.pop(number, None) is None:
                return
            is_last = number ^ 1 not in self._handles
        words = protocol.frame(number, protocol.FORGET)
        with contextlib.suppress(SandboxLost, SandboxClosed):
            if at_once:
                self.send(words)
            else:
                self.post(words)
        if is_last:
            with self.lock:
                self._free.append((number & ~1) % protocol.SLOTS)

    def is_ours(self) -> bool:
        """Whether this is the process that opened it, and not a fork of that."""
        return self._owner == os.getpid()

    # Writing

    def post(self, data: bytes) -> None:
        """Have something go out before what is sent next."""
        with self._send_lock:
            self._pending.append(data)

    def send(self, data: bytes, passed: socket.socket | None = None) -> None:
        """Write frames, in one piece.

        Args:
            data: The frames.
            passed: A socket that the first of them is about, where it takes one.

        Raises:
            SandboxLost: If the container is gone.
            SandboxClosed: If we ended it.
        """
        if not self.is_ours():
            raise SandboxClosed("the sandbox is another process's", sandbox_id=self._sandbox_id)
        with self._send_lock:
            if self._pending:
                pending, self._pending = self._pending, []
                data = b"".join([*pending, data])
            if self.dead or self._closed:
                raise self.loss()
            try:
                if passed is None:
                    sent = self._sock.send(data)
                else:
                    sent = socket.send_fds(self._sock, [data], [passed.fileno()])
            except BlockingIOError:
                sent = 0
            except OSError:
                self._die()
                raise self.loss() from None
            if sent < len(data):
                self._send_rest(memoryview(data)[sent:])

    def _send_rest(self, rest: memoryview) -> None:
        """Write on while reading: the other end may wait for us to read before it reads."""
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        deadline = time.monotonic() + _SEND_S
        while rest:
            self.look()
            if not poll.poll(20) and time.monotonic() > deadline:
                self._die()
                raise SandboxLost(
                    f"the engine took nothing for {_SEND_S:g} s; is it stopped or overloaded?",
                    sandbox_id=self._sandbox_id,
                )
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                continue
            except OSError:
                self._die()
                raise self.loss() from None

    # Reading

    def look(self) -> None:
        """Take what is there, without waiting."""
        with self.lock:
            if self._reading or self.dead:
                return
            self._read_for_all(0)
            self._pass_duty_on()

    def wait(
        self, turn: threading.Condition, ready: Callable[[], Any], timeout_s: float | None
    ) -> bool:
        """Wait until something is so. The lock is held when asking, and on return released.

        Args:
            turn: The condition of the handle that will note it.
            ready: What to wait for.
            timeout_s: Seconds to wait; None for ever.

        Returns:
            Whether it is so; False when the time ran out or the container is gone.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self.lock:
            try:
                while not ready():
                    if self.dead or turn in self.gone:
                        return False
                    left = None if deadline is None else deadline - time.monotonic()
                    if not self._reading:
                        self._read_for_all(_milliseconds(left))
                    elif left is None or left > 0:
                        self._waiting[turn] = None
                        turn.wait(left)
                        self._waiting.pop(turn, None)
                    if left is not None and left <= 0:
                        return bool(ready())
                return True
            finally:
                self._pass_duty_on()

    def keep_reading(self) -> None:
        """Have a thread read for all from now on, for those who poll a descriptor instead."""
        with self.lock:
            if self._reader is None and not self.dead:
                self._reader = threading.Thread(
                    target=self.wait,
                    args=(threading.Condition(self.lock), lambda: self.dead, None),
                    name=f"rock-gym-reader-{self._sandbox_id}",
                    daemon=True,
                )
                self._reader.start()

    def _pass_duty_on(self) -> None:
        if not self._reading and self._waiting:
            next(iter(self._waiting)).notify_all()

    def _read_for_all(self, timeout_ms: int | None) -> None:
        """Read once, without the lock, and note what came, with it."""
        self._reading = True
        self.lock.release()
        data: bytes | None = None
        try:
            if self._poll.poll(timeout_ms):
                data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            pass
        except OSError:
            data = b""
        finally:
            self.lock.acquire()
            self._reading = False
            if self._freed:
                self._close_socks()
        if data:
            self._split_frames(data if self._pieces is None else self._pieces.add(data))
        elif data is not None:
            self._bury()

    def _split_frames(self, data: bytes) -> None:
        if self._frames:
            self._frames += data
            data = bytes(self._frames)
            self._frames.clear()
        if self._mark:
            _, found, rest = data.partition(self._mark)
            if not found:
                self._frames += data[-len(self._mark) :]
                return
            data, self._mark = rest, b""
        at, size = 0, len(data)
        while size - at >= 12:
            length, number, kind = protocol.HEADER.unpack_from(data, at)
            end = at + 12 + length
            if length > protocol.LONGEST_FRAME:
                self._bury()  # not the agent's words
                return
            if end > size:
                break
            self._deliver(number, kind, data[at + 12 : end])
            at = end
        self._frames += data[at:]

    def _deliver(self, number: int, kind: int, payload: bytes) -> None:
        if number == 0:
            self.greeting = payload
            self._hello.notify_all()
            return
        handle = self._handles.get(number)
        if handle is not None:
            handle.take(kind, payload)
            handle.turn.notify_all()

    # The end

    def _die(self) -> None:
        with self.lock:
            self._bury()

    def _bury(self) -> None:
        self.dead = True
        self._hello.notify_all()
        for handle in self._handles.values():
            handle.lose()
            handle.turn.notify_all()

    def loss(self) -> SandboxLost | SandboxClosed:
        """Return the error for a use after the end."""
        if self._closed or self.stopped:
            return SandboxClosed("the sandbox was stopped", sandbox_id=self._sandbox_id)
        return SandboxLost(
            f"the sandbox is gone: {self.why_dead()}; start or acquire another one",
            sandbox_id=self._sandbox_id,
        )

    def start_over(self, mark: bytes, timeout_s: float) -> bool:
        """Have everything inside but the agent ended, and forget all about it.

        Args:
            mark: What the agent says when it has done so; what comes before is of no interest.
            timeout_s: How long to wait for it.

        Returns:
            Whether it has said so.
        """
        with self.lock:
            self.greeting = None
            self._mark = mark
            self._frames.clear()
            for handle in self._handles.values():
                self.gone.add(handle.turn)
                handle.lose()
                handle.turn.notify_all()
            self._handles.clear()
            self._free = deque(range(0, protocol.SLOTS, 2))
        self.send(protocol.frame(0, protocol.START_OVER))
        return self.await_greeting(timeout_s) is not None

    def await_greeting(self, timeout_s: float) -> bytes | None:
        """Wait for the agent; None when it does not come."""
        self.wait(self._hello, lambda: self.greeting is not None, timeout_s)
        return self.greeting

    def is_open(self) -> bool:
        """Whether the other end is there, as far as can be seen without waiting."""
        if not self._closed:
            self.look()
        return not self.dead and not self._closed

    def close(self) -> None:
        """Hang up, upon which the container ends. Twice is fine."""
        if not self.is_ours():
            return
        self._closed = True
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._die()

    def free(self) -> None:
        """Close the descriptor, once nobody uses it any more."""
        with self._send_lock, self.lock:
            self._freed = True
            if not self._reading:
                self._close_socks()

    def _close_socks(self) -> None:
        for sock in self._socks:
            sock.close()


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(0, math.ceil(seconds * 1000))


def _drop_inherited() -> None:
    """In a forked child: a copy of a stream there would keep its container alive."""
    for link in tuple(_open):
        link._close_socks()
    _open.clear()


os.register_at_fork(after_in_child=_drop_inherited)
