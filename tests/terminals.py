"""Somebody at a terminal, for tests of what people see and type."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Terminal:
    """Somebody at a terminal who runs a command on it."""

    def __init__(self, command: list[str]) -> None:
        self.master, slave = pty.openpty()
        self.resize(30, 90)
        self.before = termios.tcgetattr(slave)
        # Tests may run where Ctrl-C is ignored, as in the background of a script.
        command = ["env", "--default-signal=INT", *command]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        self.slave = slave

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read_until(self, pattern: str, timeout: float = 20.0) -> str:
        text = ""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, text):
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {text!r}"
            text += os.read(self.master, 65536).decode()
        return text


@contextmanager
def terminal(*words: str) -> Iterator[Terminal]:
    opened = Terminal([*words])
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()
        os.close(opened.master)
        os.close(opened.slave)
