"""The two programs that are not Python: they are of the source beside them, and what both share."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import rock_gym
from tests.contract.support import command_line, descendants

BACKENDS = Path(rock_gym.__file__).parent / "backends"
NATIVE = BACKENDS / "native"
PROGRAMS = [BACKENDS / "docker" / "agent", BACKENDS / "launcher" / "forker"]

each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)


@each_program
def test_programs_are_of_this_source(program: Path) -> None:
    """Whoever changes the source runs `make agent`."""
    sources = [*sorted(NATIVE.glob("*.h")), *sorted(program.glob("*.c"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    assert (program / "SOURCE").read_text().strip() == digest


@each_program
def test_building_gives_the_same_bytes(program: Path, tmp_path: Path) -> None:
    """Where the compilers are those that they were built with."""
    for name in ("x86_64-linux-gnu-gcc", "aarch64-linux-gnu-gcc"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
        version = subprocess.run([name, "-dumpfullversion"], capture_output=True, text=True)
        if version.stdout.strip() != "12.2.0":
            pytest.skip(f"{name} is another version")
    subprocess.run([str(NATIVE / "build.sh"), str(program), str(tmp_path)], check=True)
    for machine in ("x86_64", "aarch64"):
        name = f"{program.name}.{machine}"
        assert (tmp_path / name).read_bytes() == (program / name).read_bytes()


def forkers() -> list[int]:
    """One for each launcher there is: their children have that name, but other namespaces."""
    ours = os.readlink("/proc/self/ns/pid")
    found = [pid for pid in descendants() if "rock-gym-forker" in command_line(pid)]
    return [pid for pid in found if os.readlink(f"/proc/{pid}/ns/pid") == ours]


@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
def test_a_killed_forker_is_replaced(start: Any) -> None:
    """Its work is to make processes, so what it has made goes on without it."""
    sandbox = start()
    session = sandbox.create_session()
    for _ in range(3):
        for forker in forkers():
            os.kill(forker, signal.SIGKILL)
        assert session.run("echo here").output == "here\n"
        assert [sandbox.execute(["echo", word]).stdout for word in "ab"] == ["a\n", "b\n"]
        assert start().execute("echo new").stdout == "new\n"
