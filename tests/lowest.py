"""An environment with the lowest version of each dependency that ``pyproject.toml`` allows.

Built once on a machine and for each set of bounds; ``python -m tests.lowest`` builds it ahead.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings along there

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
# Ray is as large as all others together, and has its own tests.
EXTRAS = ("data", "server", "words")


def interpreter() -> Path:
    """Return an interpreter that has them, and not the project itself."""
    told = tomllib.loads(PROJECT.read_text())["project"]
    extras = {name: told["optional-dependencies"][name] for name in EXTRAS}
    asked = (sys.version_info[:3], told["dependencies"], extras)
    digest = hashlib.sha256(repr(asked).encode()).hexdigest()[:12]
    home = Path(tempfile.gettempdir()) / f"rock-gym-test-lowest-{digest}-{os.getuid()}"
    python = home / "bin" / "python"
    with Path(f"{home}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = home / "complete"
        if not done.exists():
            shutil.rmtree(home, ignore_errors=True)
            # With pip, which GEM environments are set up by where they need another interpreter.
            subprocess.run([sys.executable, "-m", "venv", home], check=True)
            install = ["pip", "install", "--quiet", "--resolution", "lowest-direct"]
            install += ["--python", str(python), "-r", str(PROJECT)]
            install += [word for name in EXTRAS for word in ("--extra", name)]
            # It is to trust whom this machine trusts, as pip does: by either name, new or old.
            trusting = {**os.environ, "UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"}
            subprocess.run([sys.executable, "-m", "uv", *install], check=True, env=trusting)
            done.touch()
    return python


if __name__ == "__main__":
    print(interpreter())
