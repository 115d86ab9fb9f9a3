"""A process on a pseudo-terminal of an embedded sandbox; we hold the other end of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
import termios

from rock_gym.backends.process import PipeProcess


class PipeTerminal:
    """See ``Terminal``.

    Args:
        fd: The master's end.
        process: The process, whose streams are the other end.
    """

    def __init__(self, fd: int, process: PipeProcess) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._process = process
        # What a process leaves in the background keeps the terminal open, but gets nothing to it
        # any more: the end of the process is the end of the output, too.
        self._ready = select.epoll()
        self._ready.register(fd, select.EPOLLIN)
        self._ready.register(process.end_fd, select.EPOLLIN)

    @property
    def exit_code(self) -> int | None:
        """Its exit code, once ``wait`` has seen it."""
        return self._process.exit_code

    def fileno(self) -> int:
        """The descriptor to poll."""
        return -1 if self._ready.closed else self._ready.fileno()

    def read(self, count: int = 65536) -> bytes:
        """Wait for output; see ``Terminal.read``."""
        while True:
            self._ready.poll()
            ended = self._process.has_ended()
            try:
                return os.read(self._fd, count)
            except BlockingIOError:
                if ended:
                    return b""
                continue  # another thread was faster
            except OSError as error:
                if error.errno != errno.EIO:  # nobody has the other end any more
                    raise
                return b""

    def write(self, data: bytes) -> None:
        """Type; see ``Terminal.write``."""
        rest = memoryview(data)
        while rest:
            # Not a write that waits: it would do so for ever when the other end is closed.
            if not self._wait_for_room():
                raise BrokenPipeError("the process on this terminal has ended")
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._fd, rest) :]

    def _wait_for_room(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.register(self._process.end_fd, select.POLLIN)
        return poll.poll() == [(self._fd, select.POLLOUT)]

    def resize(self, rows: int, columns: int) -> None:
        """Change its size; see ``Terminal.resize``."""
        with contextlib.suppress(OSError):  # the process may have ended
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end; see ``Terminal.wait``."""
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """Kill it; see ``Terminal.kill``."""
        self._process.kill()

    def close(self) -> None:
        """Hang up; see ``Terminal.close``."""
        if self._fd >= 0:
            self._ready.close()
            os.close(self._fd)
            self._fd = -1
            self._process.close()
