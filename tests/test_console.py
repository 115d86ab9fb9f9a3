"""``rock-gym shell``: a terminal here, connected with one in a sandbox."""

from __future__ import annotations

import signal
import subprocess
import sys
import termios

import pytest

from tests.terminals import terminal


@pytest.fixture
def command(backend: str) -> list[str]:
    return [sys.executable, "-m", "rock_gym", "shell", "--backend", backend]


def test_a_shell_and_its_exit_code(command: list[str]) -> None:
    with terminal(*command) as mine:
        mine.type("echo $((6*7)) $HOSTNAME $(stty size)\n")
        mine.read_until(r"42 sandbox 30 90\r\n")
        mine.type("exit 7\n")
        assert mine.process.wait(20) == 7
        assert termios.tcgetattr(mine.slave) == mine.before, "the terminal is as it was"


def test_keys_go_to_the_sandbox(command: list[str]) -> None:
    """Ctrl-C ends what runs in there, not the command here."""
    heed = "trap 'echo heard; exit 5' INT; echo rea''dy; while :; do sleep 0.02; done"
    with terminal(*command, "--", "sh", "-c", heed) as mine:
        mine.read_until(r"ready\r\n")
        mine.type("\x03")
        mine.read_until(r"heard\r\n")
        assert mine.process.wait(20) == 5


def test_the_size_follows(command: list[str]) -> None:
    follow = "trap 'echo now $(stty size)' WINCH; echo rea''dy; while :; do sleep 0.02; done"
    with terminal(*command, "--", "sh", "-c", follow) as mine:
        mine.read_until(r"ready\r\n")
        mine.resize(44, 111)
        mine.process.send_signal(signal.SIGWINCH)
        mine.read_until(r"now 44 111\r\n")


def test_without_a_terminal(command: list[str]) -> None:
    """What is piped in is typed, and its end is the end."""
    done = subprocess.run(
        [*command, "--", "sh", "-c", "read line; echo got $line; exit 3"],
        input="something\n",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 3
    assert "got something" in done.stdout


def test_what_does_not_start(command: list[str]) -> None:
    done = subprocess.run([*command, "--", "no-such-program"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no-such-program" in done.stderr
    assert "Traceback" not in done.stderr
