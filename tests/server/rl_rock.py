"""ROCK's own client, unmodified, in a virtual environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests import isolated

REQUIREMENT = "rl-rock==1.11.0"


def interpreter() -> Path:
    """Return the interpreter that has it."""
    return isolated.interpreter(REQUIREMENT)


def run(python: Path, program: Path, port: int, *arguments: str) -> list[str]:
    """Run a program that uses it against a server; returns the lines that it printed."""
    done = subprocess.run(
        [python, program, *arguments],
        env={
            **os.environ,
            "ROCK_BASE_URL": f"http://127.0.0.1:{port}",
            "ROCK_LOGGING_LEVEL": "ERROR",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.splitlines()


def told(python: Path, name: str, port: int, *arguments: str) -> Any:
    """What a program beside this one tells as JSON."""
    return json.loads(run(python, Path(__file__).with_name(name), port, *arguments)[-1])
