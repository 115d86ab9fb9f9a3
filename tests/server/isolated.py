"""Programs from PyPI in virtual environments of their own, built once on a machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def interpreter(requirement: str) -> Path:
    """Return an interpreter that has a package. Building it takes a minute.

    Args:
        requirement: Such as ``"rl-rock==1.11.0"``.
    """
    name = f"rock-gym-test-{requirement.replace('==', '-')}-{os.getuid()}"
    home = Path(tempfile.gettempdir()) / name
    python = home / "bin" / "python"
    with Path(f"{home}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = home / "complete"
        if not done.exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", home], check=True)
            pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
            subprocess.run([*pip, requirement], check=True)
            done.touch()
    return python


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(interpreter(each))
