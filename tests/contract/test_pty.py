"""A terminal in a sandbox."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rock_gym.errors import FileError, SandboxClosed, SandboxLost, SpecError
from tests.contract.support import eventually, members, within


def read_until(pty: Any, pattern: str, timeout: float = 10.0) -> str:
    """Read until the output holds a pattern; what came by then."""
    text = ""
    deadline = time.monotonic() + timeout
    while not re.search(pattern, text):
        ready, _, _ = select.select([pty], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {pattern!r} in {text!r}"
        data = pty.read()
        assert data, f"it ended without {pattern!r}: {text!r}"
        text += data.decode("utf-8", "replace")
    return text


def read_all(pty: Any) -> str:
    text = b""
    while data := pty.read():
        text += data
    return text.decode().replace("\r\n", "\n")


def test_a_shell(sandbox: Any) -> None:
    """An interactive one, on a terminal of the sandbox's own."""
    with sandbox.open_pty() as pty:
        pty.write(b"echo $((6 * 7)) on $(tty); echo $-\n")
        # The i of the last line is for interactive.
        read_until(pty, r"42 on /dev/pts/\d+\r\n\w*i\w*\r\n")
        pty.write(b"exit 7\n")
        while pty.read():
            pass
        assert pty.wait(10) == 7
        assert pty.exit_code == 7


def test_a_program(sandbox: Any) -> None:
    sandbox.execute("mkdir d")
    with sandbox.open_pty(
        ["sh", "-c", 'pwd; echo "$X:$TERM"; test -t 0 -a -t 1 -a -t 2 && echo terminal'],
        cwd="d",
        env={"X": "y", "TERM": "xterm"},
    ) as pty:
        assert read_all(pty) == f"{sandbox.workdir}/d\ny:xterm\nterminal\n"
        assert pty.wait(10) == 0


def test_its_size(sandbox: Any) -> None:
    """Given at first, changed later, and told of by the signal."""
    follow = "trap 'echo now $(stty size)' WINCH; stty size; while :; do sleep 0.02; done"
    with sandbox.open_pty(["sh", "-c", follow], rows=40, columns=133) as pty:
        read_until(pty, r"40 133\r\n")
        pty.resize(24, 100)
        read_until(pty, r"now 24 100\r\n")


def test_keys_are_signals(sandbox: Any) -> None:
    with sandbox.open_pty() as pty:
        pty.write(b"sleep 1000; echo code $?\n")
        assert eventually(lambda: "sleep" in sandbox.execute("cat /proc/*/comm").stdout)
        pty.write(b"\x03")
        pty.write(b"echo code $?\n")
        read_until(pty, r"code 130\r\n")
        pty.write(b"sort\n")
        assert eventually(lambda: "sort\n" in sandbox.execute("cat /proc/*/comm").stdout)
        pty.write(b"typed\n\x04")
        read_until(pty, r"typed\r\ntyped\r\n")
        pty.write(b"exit\n")
        while pty.read():
            pass
        assert pty.wait(10) == 0


def test_a_lot_of_output(sandbox: Any) -> None:
    with sandbox.open_pty(["sh", "-c", "seq 100000"]) as pty:
        assert read_all(pty).splitlines() == [str(number) for number in range(1, 100_001)]


def test_closing_ends_what_runs(sandbox: Any) -> None:
    pty = sandbox.open_pty()
    pty.write(b"trap '' HUP TERM; sleep 1000 & sleep 1000\n")
    assert eventually(lambda: sandbox.execute("cat /proc/*/comm").stdout.count("sleep\n") == 2)
    pty.close()
    pty.close()
    assert eventually(lambda: "sleep" not in sandbox.execute("cat /proc/*/comm").stdout)


def test_closing_under_a_reader(sandbox: Any) -> None:
    """Who waits for output gets the end of it."""
    with ThreadPoolExecutor(1) as thread:
        for _ in range(5):
            pty = sandbox.open_pty(["sh", "-c", "trap '' HUP; echo ready; sleep 1000"])
            read_until(pty, "ready\r\n")
            reading = thread.submit(pty.read)
            assert eventually(reading.running)
            pty.close()
            assert reading.result(5) == b""


def test_killing(sandbox: Any) -> None:
    with sandbox.open_pty(["sleep", "1000"]) as pty:
        assert pty.wait(0.05) is None
        pty.kill()
        with within(5):
            assert pty.wait() == 128 + signal.SIGKILL
            assert pty.read() == b""


def test_writing_to_what_has_ended(sandbox: Any) -> None:
    with sandbox.open_pty(["true"]) as pty:
        assert pty.wait(10) == 0
        assert pty.read() == b""
        with pytest.raises(BrokenPipeError):
            pty.write(b"x\n")


def test_a_program_that_leaves_its_terminal(sandbox: Any) -> None:
    """The end of what it prints is not its own end."""
    with sandbox.open_pty(["sh", "-c", "echo last; exec <&- >&- 2>&-; exit 9"]) as pty:
        assert read_all(pty) == "last\n"
        assert pty.wait(10) == 9


def test_what_it_leaves_in_the_background(sandbox: Any) -> None:
    """The terminal is over with its program, all of whose output is there."""
    for _ in range(3):
        command = "(trap '' HUP; sleep 1000) & seq 3000; exit 3"
        with sandbox.open_pty(["sh", "-c", command]) as pty:
            assert read_all(pty).split() == [str(number) for number in range(1, 3001)]
            assert select.select([pty], [], [], 0)[0], "its end is there to see"
            assert pty.wait(10) == 3
            with pytest.raises(BrokenPipeError):
                pty.write(b"x\n")


def test_one_that_nobody_reads(sandbox: Any) -> None:
    """Nor types for: neither holds up what else goes on."""
    with sandbox.open_pty(["yes"]) as loud, sandbox.open_pty(["sleep", "1000"]) as deaf:
        for _ in range(20):
            deaf.write(b"x" * 200 + b"\n")
        assert sandbox.execute("echo hi").stdout == "hi\n"
        assert loud.read(2) == b"y\r"
        assert loud.read(1) == b"\n"


def test_what_cannot_be_started(sandbox: Any) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(FileError):
            sandbox.open_pty(["no-such-program"])
        with pytest.raises(FileError):
            sandbox.open_pty(cwd="missing")
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    for nonsense in ({"rows": 0}, {"columns": 1 << 16}, {"rows": "many"}, {"argv": []}):
        with pytest.raises(SpecError):
            sandbox.open_pty(**nonsense)
    with sandbox.open_pty() as pty, pytest.raises(SpecError):
        pty.resize(-1, 80)


def test_several(sandbox: Any) -> None:
    """Each has its own."""
    ptys = [sandbox.open_pty() for _ in range(5)]
    names = set()
    for pty in ptys:
        pty.write(b"echo my $(tty)\n")
        names.add(re.findall(r"my (/dev/pts/\d+)\r\n", read_until(pty, r"my /dev/pts/\d+\r\n"))[-1])
    assert len(names) == 5
    for pty in ptys:
        pty.close()
    assert sandbox.execute("ls /dev/pts").stdout == "ptmx\n"


def test_two_sandboxes_do_not_share_terminals(start: Any) -> None:
    one, two = start(), start()
    with one.open_pty() as pty:
        pty.write(b"tty\n")
        read_until(pty, r"/dev/pts/0\r\n")
        assert two.execute("ls /dev/pts").stdout == "ptmx\n"


def test_a_sandbox_that_is_stopped(sandbox: Any) -> None:
    pty = sandbox.open_pty()
    read_until(pty, r"[$#] ")
    sandbox.stop()
    with within(5), pytest.raises(SandboxClosed):
        pty.wait()
    with pytest.raises(SandboxClosed):
        pty.write(b"x")
    pty.close()
    with pytest.raises(SandboxClosed):
        sandbox.open_pty()


def test_a_sandbox_that_dies(sandbox: Any) -> None:
    pty = sandbox.open_pty()
    read_until(pty, r"[$#] ")
    os.kill(min(members(sandbox)), signal.SIGKILL)
    with within(5):
        while pty.read():
            pass
        with pytest.raises((SandboxLost, SandboxClosed)):
            pty.wait()
    pty.close()


def test_after_a_restart(sandbox: Any) -> None:
    sandbox.restart()
    with sandbox.open_pty(["tty"]) as pty:
        assert read_all(pty).startswith("/dev/pts/")
        assert pty.wait(10) == 0
