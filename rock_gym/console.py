"""A person at a terminal in a sandbox: keys go in as they are typed, output comes out as it is."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator

from rock_gym.terminal import Pty

_CHUNK_BYTES = 65536
_END_S = 5.0
_END_OF_INPUT = b"\x04"


def interact(pty: Pty, stdin: int = 0, stdout: int = 1) -> int:
    """Connect a terminal here with one in a sandbox until the program there ends.

    To be called from the main thread, which is where signals arrive.

    Args:
        pty: The terminal in the sandbox.
        stdin: Where keys come from; not necessarily a terminal.
        stdout: Where output goes.

    Returns:
        The exit code of the program, or 129 when it does not end although its terminal has.
    """
    with _raw(stdin), _resizing(pty, stdout):
        _relay(pty, stdin, stdout)
    code = pty.wait(_END_S)
    return 128 + signal.SIGHUP if code is None else code


def size_of(fd: int) -> tuple[int, int]:
    """Return rows and columns of a terminal, or 24 and 80 where there is none."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return 24, 80
    return max(size.lines, 1), max(size.columns, 1)


def _relay(pty: Pty, stdin: int, stdout: int) -> None:
    poll = select.poll()
    poll.register(pty.fileno(), select.POLLIN)
    poll.register(stdin, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == pty.fileno():
                if not (data := pty.read(_CHUNK_BYTES)):
                    return
                _write(stdout, data)
            elif fd == stdin:
                data = os.read(stdin, _CHUNK_BYTES)
                with contextlib.suppress(BrokenPipeError):  # its last output may be on the way
                    pty.write(data or _END_OF_INPUT)
                if not data:
                    poll.unregister(stdin)


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    """Have keys come one by one, Ctrl-C among them; the other terminal does the rest."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)


@contextlib.contextmanager
def _resizing(pty: Pty, fd: int) -> Iterator[None]:
    """Pass the size of a terminal on whenever it changes."""
    before = signal.signal(signal.SIGWINCH, lambda *_: pty.resize(*size_of(fd)))
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
