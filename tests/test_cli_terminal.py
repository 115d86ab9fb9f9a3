"""What the command line is like at a terminal: tables that live, Ctrl-C, and completion."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rock_gym.backends.running import Running, list_running
from rock_gym.cli_completion import SHELLS
from tests.contract.support import eventually
from tests.terminals import terminal

ROCK_GYM = [sys.executable, "-m", "rock_gym"]
GUESS = "game:GuessTheNumber-v0-easy"

# One backend is enough: what differs between them is tested beneath.
one_backend = pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True, scope="session")

# A policy that says when it is asked, and then keeps its player waiting.
SLOW = """
import sys, time

def slow(observation, info):
    print("asked", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.05)  # a signal that comes just before a wait for ever does not end it
"""


def sandboxes_of(pid: int) -> list[Running]:
    return [each for each in list_running() if each.owner_pid == pid]


def plain(text: str) -> str:
    """Without colours, and whatever else tells a terminal what to do."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@one_backend
class TestLiveTable:
    def test_episodes_are_shown_as_they_are_played(self, backend: str, tmp_path: Path) -> None:
        """Above them a table that goes, in the end one that stays."""
        (tmp_path / "asking.py").write_text(
            "def asking(observation, info):\n    input()\n    return '\\\\boxed{1}'\n"
        )
        words = ["run", GUESS, "-n", "3", "--num-envs", "2", "--policy", "asking:asking"]
        command = ["sh", "-c", f'cd {tmp_path} && exec "$@"', "sh", *ROCK_GYM, *words]
        with terminal(*command) as mine:
            seen = mine.read_until(r"0 of 3 episodes")
            assert re.search(r"env +episode +seed +turn +return +last move", plain(seen))
            mine.type("\n")
            mine.read_until(r"boxed\{1\}")
            mine.type("\n" * 20)
            end = mine.read_until(r"3 episodes, \d+ steps, mean return")
            assert re.search(r"episode +seed +steps +return +end +seconds", plain(end))
            assert mine.process.wait(20) == 0


@one_backend
class TestCtrlC:
    def test_a_command_ends_with_it(self, backend: str) -> None:
        """The exit code is what shells make of it, and nothing goes on."""
        words = ["exec", "--backend", backend, "--", "sh", "-c", "echo rea''dy; exec sleep 600"]
        with terminal(*ROCK_GYM, *words) as mine:
            mine.read_until("ready")
            os.killpg(mine.process.pid, signal.SIGINT)
            assert mine.process.wait(30) == 130
            assert "Traceback" not in mine.read_until("interrupted")
            assert eventually(lambda: sandboxes_of(mine.process.pid) == [])

    def test_so_do_episodes(self, backend: str, tmp_path: Path) -> None:
        (tmp_path / "slow_policy.py").write_text(SLOW)
        words = ["run", GUESS, "-n", "4", "--num-envs", "2", "--policy", "slow_policy:slow"]
        command = ["sh", "-c", f'cd {tmp_path} && exec "$@"', "sh", *ROCK_GYM, *words]
        with terminal(*command) as mine:
            mine.read_until("asked")
            os.killpg(mine.process.pid, signal.SIGINT)
            assert mine.process.wait(30) == 130
            assert "Traceback" not in mine.read_until("interrupted")
            assert eventually(lambda: sandboxes_of(mine.process.pid) == [])


class TestCompletion:
    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        """Where shells find the command, as if it were installed."""
        program = tmp_path / "rock-gym"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m rock_gym "$@"\n')
        program.chmod(0o755)
        return f"{tmp_path}:{os.environ['PATH']}"

    @pytest.mark.parametrize(
        ("words", "wanted"),
        [
            (["rock-gym", "ima"], "image"),
            (["rock-gym", "image", "pu"], "pull"),
            (["rock-gym", "run", "--num"], "--num-envs"),
            (["rock-gym", "run", "gem-game/Sokoban-e"], "gem-game/Sokoban-easy-v0"),
            (["rock-gym", "exec", "--backend", "bub"], "bubblewrap"),
            (["rock-gym", "exec", "--image", "ho"], "host"),
        ],
    )
    def test_bash_completes(self, path: str, words: list[str], wanted: str) -> None:
        """A real one, which has been told to as the help says."""
        script = (
            'eval "$(rock-gym completion bash)"\n'
            f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}\n"
            "$(complete -p rock-gym | sed 's/.*-F \\([^ ]*\\).*/\\1/') rock-gym\n"
            'printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
            timeout=60,
        )
        assert done.stdout.split() == [wanted], done.stderr

    def test_bash_completes_keys(self, path: str) -> None:
        """At a terminal: half a word and a tab."""
        with terminal("env", f"PATH={path}", "bash", "--norc", "--noprofile", "-i") as mine:
            mine.type("PS1='> '; eval \"$(rock-gym completion bash)\"; echo rea''dy\n")
            mine.read_until("ready")
            mine.type("rock-gym compl\t")
            mine.read_until("rock-gym completion ")

    @pytest.mark.parametrize("shell", SHELLS)
    def test_the_script_is_one(self, path: str, shell: str) -> None:
        """Each shell that is here takes what is printed for it."""
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        script = subprocess.run(
            ["rock-gym", "completion", shell],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PATH": path},
        ).stdout
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "_ROCK_GYM_COMPLETE" in script
