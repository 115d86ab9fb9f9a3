"""A process on a pseudo-terminal of an embedded sandbox; we hold the other end of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
import termios
import threading

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
        self._hung_up = os.eventfd(0, os.EFD_CLOEXEC)
        for each in (fd, process.end_fd, self._hung_up):
            self._ready.register(each, select.EPOLLIN)
        # Held by who waits, so that no descriptor is closed under them.
        self._reading, self._writing = threading.Lock(), threading.Lock()

    @property
    def exit_code(self) -> int | None:
        """Its exit code, once ``wait`` has seen it."""
        return self._process.exit_code

    def fileno(self) -> int:
        """The descriptor to poll."""
        return -1 if self._fd < 0 else self._ready.fileno()

    def read(self, count: int = 65536) -> bytes:
        """Wait for output; see ``Terminal.read``."""
        with self._reading:
            fd = self._fd
            while self._fd >= 0:
                self._ready.poll()
                ended = self._process.has_ended()
                try:
                    return os.read(fd, count)
                except BlockingIOError:
                    if ended:
                        break
                except OSError as error:
                    if error.errno != errno.EIO:  # nobody has the other end any more
                        raise
                    break
            return b""

    def write(self, data: bytes) -> None:
        """Type; see ``Terminal.write``."""
        rest = memoryview(data)
        with self._writing:
            fd = self._fd
            while rest:
                # Not a write that waits: it would do so for ever when the other end is closed.
                if self._fd < 0 or not self._wait_for_room(fd):
                    raise BrokenPipeError("the process on this terminal has ended")
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(fd, rest) :]

    def _wait_for_room(self, fd: int) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        poll.register(self._process.end_fd, select.POLLIN)
        poll.register(self._hung_up, select.POLLIN)
        return [event for _, event in poll.poll()] == [select.POLLOUT]

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
            fd, self._fd = self._fd, -1
            os.eventfd_write(self._hung_up, 1)
            with self._reading, self._writing:
                self._ready.close()
                os.close(self._hung_up)
                os.close(fd)
                self._process.close()
