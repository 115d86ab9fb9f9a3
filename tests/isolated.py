"""Programs from PyPI in virtual environments of their own, built once on a machine.

``python -m tests.isolated REQUIREMENT ...`` builds them ahead.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import venvs


def interpreter(requirement: str) -> Path:
    """Return an interpreter that has a package. Building it takes a minute.

    Args:
        requirement: Such as ``"rl-rock==1.11.0"``.
    """
    return built_once(requirement.replace("==", "-"), lambda python: venvs.add(python, requirement))


def built_once(name: str, install: Callable[[Path], None]) -> Path:
    """Return the interpreter of a virtual environment that all tests on a machine share.

    Args:
        name: What it is called; another name for what has something else in it.
        install: Puts into it what it is to have, by its interpreter, unless that was done before.
    """
    home = Path(tempfile.gettempdir()) / f"rock-gym-test-{name}-{os.getuid()}"
    return venvs.built(home, install)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(interpreter(each))
