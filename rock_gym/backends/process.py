"""A process behind plain pipes, as the embedded backend opens them.

Reads happen in the calling thread, straight from the pipes: a command in an open session costs a
write, a poll and two reads, and no thread is woken.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import time
from pathlib import Path

from rock_gym.backends.handles import CONTROL
from rock_gym.errors import SandboxLost

_CHUNK_BYTES = 65536
_PIPE_BYTES = 65536
_SWEEP_S = 5.0
_KILL_S = 1.0


class PipeProcess:
    """A process whose streams are pipes and whose exit code comes over a socket.

    Args:
        sandbox_id: For errors.
        pid: Its process id as this process sees it.
        status: The socket that its exit code comes over.
        stdin: The pipe to its standard input, or None.
        outputs: The pipes from it, by stream.
    """

    def __init__(
        self,
        sandbox_id: str,
        pid: int,
        status: socket.socket,
        stdin: int | None,
        outputs: dict[int, int],
    ) -> None:
        self.sandbox_id = sandbox_id
        self.pid = pid
        self.exit_code: int | None = None
        self._children_fd: int | None = None
        self._lost = False
        self._status = status
        self._status_fd = status.fileno()
        self._namespace = _namespace(pid)
        self._stdin = stdin
        self._streams = {fd: stream for stream, fd in outputs.items()}
        self._control = outputs.get(CONTROL)
        self._poll = select.poll()
        # The markers first: the kernel looks at the rest after them, and so misses no output that
        # was written before one.
        first = [] if self._control is None else [self._control]
        for fd in dict.fromkeys((*first, self._status_fd, *self._streams)):
            os.set_blocking(fd, False)
            self._poll.register(fd, select.POLLIN)
        if stdin is not None:
            os.set_blocking(stdin, False)

    # Streams

    def send(self, data: bytes, timeout_s: float | None = None) -> None:
        """Write all of ``data`` to its standard input; see ``Process.send``."""
        if self._stdin is None:
            raise BrokenPipeError("the process has no standard input")
        try:
            written = os.write(self._stdin, data)
        except BlockingIOError:
            written = 0
        if written < len(data):
            self._send_rest(memoryview(data)[written:], timeout_s)

    def _send_rest(self, rest: memoryview, timeout_s: float | None) -> None:
        assert self._stdin is not None
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._stdin, select.POLLOUT)
        while rest:
            if not poll.poll(_milliseconds(deadline)):
                raise TimeoutError("the process does not read its input")
            try:
                rest = rest[os.write(self._stdin, rest) :]
            except BlockingIOError:
                continue

    def close_stdin(self) -> None:
        """Give it an end of file; see ``Process.close_stdin``."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    def receive(self, timeout_s: float | None = None) -> list[tuple[int, bytes]]:
        """Wait for output; see ``Process.receive``."""
        chunks: list[tuple[int, bytes]] = []
        if self.exit_code is not None:
            self._drain(chunks)  # what is left after wait()
            return chunks
        self._check_lost()
        ready = self._poll.poll(None if timeout_s is None else math.ceil(timeout_s * 1000))
        marker = b""
        for fd, _ in ready:
            if fd == self._status_fd:
                self._drain(chunks)
                self._take_status()
            elif fd == self._control:
                marker = self._read(fd)
                if len(ready) > 1:
                    self._drain(chunks)
            elif fd in self._streams and (data := self._read(fd)):
                chunks.append((self._streams[fd], data))
        if marker:
            chunks.append((CONTROL, marker))
        if not chunks:
            self._check_lost()
        return chunks

    def _read(self, fd: int) -> bytes:
        """Read what is there. At the end of file the stream is put away."""
        try:
            data = os.read(fd, _CHUNK_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self._poll.unregister(fd)
            del self._streams[fd]
            os.close(fd)
            if fd == self._control:
                self._control = None
        return data

    def _drain(self, chunks: list[tuple[int, bytes]]) -> None:
        """Take what the pipes hold, but not what a background process keeps adding for ever."""
        for fd, stream in tuple(self._streams.items()):
            if stream == CONTROL:
                continue
            taken = 0
            while taken < _PIPE_BYTES and fd in self._streams:
                data = self._read(fd)
                if not data:
                    break
                chunks.append((stream, data))
                taken += len(data)

    def _take_status(self) -> None:
        try:
            # Left there for others who wait for it, in other threads or by its descriptor.
            data = self._status.recv(_CHUNK_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        code = json.loads(data).get("exit") if data else None
        if code is None:
            self._lost = True
        else:
            self.exit_code = code
        with contextlib.suppress(KeyError):  # another thread saw it, too
            self._poll.unregister(self._status_fd)

    def _check_lost(self) -> None:
        if self._lost:
            raise SandboxLost(
                "the sandbox ended while a command ran in it; start or acquire another one",
                sandbox_id=self.sandbox_id,
            )

    # Ends

    @property
    def end_fd(self) -> int:
        """A descriptor to poll: readable from its end on."""
        return self._status_fd

    def has_ended(self) -> bool:
        """Whether it has ended, which ``wait`` then tells more about. Never waits."""
        if self.exit_code is not None or self._lost:
            return True
        poll = select.poll()
        poll.register(self._status_fd, select.POLLIN)
        return bool(poll.poll(0))

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end, without reading; see ``Process.wait``."""
        if self.exit_code is None and not self._lost:
            poll = select.poll()
            poll.register(self._status_fd, select.POLLIN)
            if poll.poll(None if timeout_s is None else math.ceil(timeout_s * 1000)):
                self._take_status()
        self._check_lost()
        return self.exit_code

    def children(self) -> frozenset[int]:
        """Return the host's process ids of its direct children; see ``Process.children``."""
        # A shell asks before every command: one descriptor, kept, makes that a single call. It is
        # of the main thread, and shells have no other.
        try:
            if self._children_fd is None:
                path = f"/proc/{self.pid}/task/{self.pid}/children"
                self._children_fd = os.open(path, os.O_RDONLY)
            return frozenset(map(int, os.pread(self._children_fd, _CHUNK_BYTES, 0).split()))
        except OSError:
            return frozenset()

    def kill_descendants(self, number: int, spare: frozenset[int] = frozenset()) -> int:
        """Signal all descendants but the spared; see ``Process.kill_descendants``."""
        found = _descendants(self.pid, spare)
        ends = [fd for pid in found if (fd := _signal(pid, number, self._namespace)) is not None]
        if number == signal.SIGKILL:
            _wait_for_ends(ends, _KILL_S)
        for fd in ends:
            os.close(fd)
        return len(found)

    def kill(self) -> None:
        """Kill it and all its descendants; see ``Process.kill``."""
        if self.exit_code is not None or self._lost:
            return
        # Stopped first, parents before children, so that nothing new appears behind the sweep.
        self._signal_and_forget(self.pid, signal.SIGSTOP)
        stopped: set[int] = set()
        deadline = time.monotonic() + _SWEEP_S
        while time.monotonic() < deadline:
            new = [pid for pid in _descendants(self.pid, frozenset()) if pid not in stopped]
            if not new:
                break
            for pid in new:
                self._signal_and_forget(pid, signal.SIGSTOP)
            stopped.update(new)
        for pid in stopped:
            self._signal_and_forget(pid, signal.SIGKILL)
        self._signal_and_forget(self.pid, signal.SIGKILL)

    def _signal_and_forget(self, pid: int, number: int) -> None:
        fd = _signal(pid, number, self._namespace)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Give up the streams; see ``Process.close``."""
        self.close_stdin()
        for fd in self._streams:
            os.close(fd)
        self._streams.clear()
        self._control = None
        if self._children_fd is not None:
            os.close(self._children_fd)
            self._children_fd = None
        self._status.close()


def _milliseconds(deadline: float | None) -> int | None:
    return None if deadline is None else max(0, math.ceil((deadline - time.monotonic()) * 1000))


def _children(pid: int) -> list[int]:
    """Return the children of all threads of a process; none when it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
            found.extend(map(int, text.split()))
    except OSError:
        return found
    return found


def _descendants(pid: int, spare: frozenset[int]) -> list[int]:
    """Return all below a process, parents first, without the spared and what is below them."""
    found: list[int] = []
    level = [child for child in _children(pid) if child not in spare]
    while level:
        found.extend(level)
        level = [child for parent in level for child in _children(parent)]
    return found


def _signal(pid: int, number: int, namespace: int | None) -> int | None:
    """Signal a process through a descriptor, if it is in the given process namespace.

    The number was read from /proc a moment ago; should it have been reused since, by whatever
    process of the host, the namespace tells.

    Returns:
        The descriptor, which becomes readable when the process ends; None if it has ended.
    """
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    if namespace is not None and _namespace(pid) == namespace:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
            return fd
    os.close(fd)
    return None


def _wait_for_ends(fds: list[int], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    left = len(fds)
    while left and (ended := poll.poll(_milliseconds(deadline))):
        for fd, _ in ended:
            poll.unregister(fd)
        left -= len(ended)


def _namespace(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None
