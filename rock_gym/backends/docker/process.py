"""A process in a container, spoken to through the container's first process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections import deque

from rock_gym.backends.docker import protocol
from rock_gym.backends.docker.link import Handle, Link
from rock_gym.backends.handles import CONTROL, STDERR, STDOUT
from rock_gym.errors import FileError, SandboxClosed, SandboxLost

_STREAMS = {
    protocol.OUTPUT: STDOUT,
    protocol.ERROR: STDERR,
    protocol.CONTROL_OUTPUT: CONTROL,
}
_OPEN_S = 10.0
_KILL_S = 2.0
_GRANT_BYTES = protocol.OUTPUT_WINDOW // 4
_PIECE_BYTES = 32768


class AgentProcess(Handle):
    """See ``Process``."""

    def __init__(self, link: Link) -> None:
        self.exit_code: int | None = None
        self._opened: tuple[int, int] | None = None
        self._chunks: list[tuple[int, bytes]] = []
        self._code: int | None = None
        self._ended = self._broken = self._closed = False
        self._has_input = False
        self._room = protocol.INPUT_WINDOW
        self._consumed = 0
        self._snapshot = 0
        self._kills = 0
        self._killed: deque[int] = deque()
        super().__init__(link)

    def start(
        self,
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        flags: int,
        names: tuple[str, str],
        size: bytes = b"",
        channel: socket.socket | None = None,
    ) -> None:
        """Have it started, and wait for word of it.

        Args:
            argv: The program and its arguments.
            env: All of its environment.
            cwd: Where it starts, absolute.
            flags: Of the protocol.
            names: What an error calls the directory and the program.
            size: That of its terminal, if it gets one.
            channel: A socket that it gets, if it gets one.

        Raises:
            FileError: If it cannot be started.
            SandboxLost: If the container is gone.
            SandboxClosed: If it was ended by us.
        """
        self._has_input = bool(flags & (protocol.WITH_INPUT | protocol.WITH_TERMINAL))
        payload = protocol.spawn_payload(
            flags,
            os.fsencode(cwd),
            [os.fsencode(word) for word in argv],
            [os.fsencode(f"{name}={value}") for name, value in env.items()],
            size,
        )
        if len(payload) > protocol.LONGEST_FRAME:
            raise self._start_error(errno.E2BIG, names[1])
        self._order(protocol.SPAWN, payload, names, channel)

    def start_tree(self, path: bytes, name: str, *, writes: bool) -> None:
        """Have a child of the first process read or write a tree; raises as ``start``.

        Args:
            path: Its root, absolute.
            name: What an error calls it.
            writes: Whether it writes what it is sent, or else sends what it reads.
        """
        self._has_input = writes
        self._order(protocol.TREE, bytes([writes]) + path + b"\0", (name, name))

    def _order(
        self,
        kind: int,
        payload: bytes,
        names: tuple[str, str],
        channel: socket.socket | None = None,
    ) -> None:
        """Have it started one way or the other, and wait for word of it."""
        credit = protocol.WORD.pack(protocol.OUTPUT_WINDOW)
        self.link.send(
            protocol.frame(self.id, kind, payload)
            + protocol.frame(self.id, protocol.CREDIT, credit),
            channel,
        )
        if not self.link.wait(self.turn, lambda: self._opened is not None, _OPEN_S):
            if self.link.is_open():
                raise SandboxLost(
                    f"the sandbox is gone: it did not answer within {_OPEN_S:g} s; is the engine "
                    "stopped or overloaded?"
                )
            raise self.link.loss()
        assert self._opened is not None
        code, what = self._opened
        if code:
            raise self._start_error(code, names[0] if what == 1 else names[1])

    def _start_error(self, code: int, path: str) -> FileError:
        text = os.strerror(code)
        if code == errno.EAGAIN:
            text += "; the sandbox has no process to spare: raise pids="
        return FileError(f"{path}: {text}", path=path, reason=errno.errorcode.get(code, "EIO"))

    def take(self, kind: int, payload: bytes) -> None:
        """Note a frame; see ``Handle.take``."""
        stream = _STREAMS.get(kind)
        if stream is not None:
            self._chunks.append((stream, payload))
        elif kind == protocol.DIED:
            self._code = protocol.WORDS.unpack(payload)[0]
            self._broken = True
        elif kind == protocol.END:
            self._ended = True
        elif kind == protocol.OPENED:
            self._opened = protocol.WORDS.unpack(payload)
        elif kind == protocol.ROOM:
            self._room += protocol.WORDS.unpack(payload)[0]
        elif kind == protocol.BROKEN:
            self._broken = True
        elif kind == protocol.KILLED:
            self._killed.append(protocol.WORDS.unpack(payload)[0])

    # Streams

    def send(self, data: bytes, timeout_s: float | None = None) -> None:
        """Write to its standard input; see ``Process.send``."""
        if not self._has_input:
            raise BrokenPipeError("the process has no standard input")
        self.link.look()  # it may have ended since
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        rest = memoryview(data)
        while rest:
            if self._broken:
                raise BrokenPipeError("the process has closed its input or ended")
            count = min(len(rest), self._room, _PIECE_BYTES)
            if not count:
                self._await_room(deadline)
                continue
            with self.link.lock:
                self._room -= count
            self._send(protocol.INPUT, bytes(rest[:count]))
            rest = rest[count:]

    def _await_room(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if self.link.wait(self.turn, lambda: self._room or self._broken, left):
            return
        if self.is_gone:
            raise BrokenPipeError("the process has ended with its sandbox")
        raise TimeoutError("the process does not read its input")

    def _send(self, kind: int, payload: bytes = b"") -> None:
        self.link.send(protocol.frame(self.id, kind, payload))

    def close_stdin(self) -> None:
        """Give it an end of file; see ``Process.close_stdin``."""
        if self._has_input and not self._closed:
            self._has_input = False
            with contextlib.suppress(SandboxLost, SandboxClosed):
                self._send(protocol.CLOSE_INPUT)

    def receive(self, timeout_s: float | None = None) -> list[tuple[int, bytes]]:
        """Wait for output; see ``Process.receive``."""
        if not self._ended and not self._chunks:
            self.link.wait(self.turn, lambda: self._chunks or self._ended, timeout_s)
        with self.link.lock:
            chunks, self._chunks = self._chunks, []
            ended = self._ended
        if ended:
            self.exit_code = self._code
        elif chunks:
            self._grant(sum(len(data) for _, data in chunks))
        elif self.is_gone:
            raise self._loss()
        return chunks

    def _grant(self, count: int) -> None:
        self._consumed += count
        if self._consumed >= _GRANT_BYTES:
            words, self._consumed = protocol.WORD.pack(self._consumed), 0
            with contextlib.suppress(SandboxLost, SandboxClosed):  # the next call tells
                self._send(protocol.CREDIT, words)

    def _loss(self) -> SandboxLost:
        loss = self.link.loss()
        return loss if isinstance(loss, SandboxLost) else SandboxLost(loss.message)

    # Ends

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end, without reading; see ``Process.wait``."""
        self.link.wait(self.turn, lambda: self._code is not None, timeout_s)
        if self._code is None and self.is_gone:
            raise self._loss()
        self.exit_code = self._code
        return self.exit_code

    def children(self) -> frozenset[int]:
        """Return a mark for its present children; see ``Process.children``.

        They are looked up inside when what is sent next arrives there, which costs no round trip.
        The mark holds until the next call.
        """
        self._snapshot += 1
        with contextlib.suppress(SandboxLost, SandboxClosed):
            self.link.post(
                protocol.frame(self.id, protocol.SNAPSHOT, protocol.WORD.pack(self._snapshot))
            )
        return frozenset({self._snapshot})

    def kill_descendants(self, number: int, spare: frozenset[int] = frozenset()) -> int:
        """Signal all below it but the spared; see ``Process.kill_descendants``."""
        if spare and spare != {self._snapshot}:
            raise ValueError("only what children() returned last can be spared")
        with self.link.lock:
            self._kills += 1
            turn = self._kills
        try:
            self._send(protocol.KILL_BELOW, protocol.WORDS.pack(number, max(spare, default=0)))
        except (SandboxLost, SandboxClosed):
            return 0
        if not self.link.wait(self.turn, lambda: len(self._killed) >= turn, _KILL_S):
            return 0
        return self._killed[turn - 1]

    def kill(self) -> None:
        """Kill it and all below it; see ``Process.kill``."""
        if self._code is None and not self._closed:
            with contextlib.suppress(SandboxLost, SandboxClosed):
                self._send(protocol.KILL)

    def close(self) -> None:
        """Give up the streams; see ``Process.close``."""
        self._closed = True
        # What has ended holds nothing inside but its number.
        self.link.forget(self.id, at_once=not self._ended)
