"""An environment with the lowest version of each dependency that ``pyproject.toml`` allows.

Built once on a machine and for each set of bounds; ``python -m tests.lowest`` builds it ahead.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.isolated import built_once

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings along there

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
# Ray is as large as all others together, and has its own tests.
EXTRAS = ("data", "server", "words")


def interpreter() -> Path:
    """Return an interpreter that has them, and not the project itself.

    It has pip as well, which GEM environments are set up by where they need another interpreter.
    """
    told = tomllib.loads(PROJECT.read_text())["project"]
    extras = {name: told["optional-dependencies"][name] for name in EXTRAS}
    asked = (sys.version_info[:3], told["dependencies"], extras)
    digest = hashlib.sha256(repr(asked).encode()).hexdigest()[:12]
    return built_once(f"lowest-{digest}", _install)


def _install(python: Path) -> None:
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet"]
    command += ["--resolution", "lowest-direct", "--python", str(python), "-r", str(PROJECT)]
    command += [word for name in EXTRAS for word in ("--extra", name)]
    # It is to trust whom this machine trusts, as pip does: by either name, new or old.
    trusting = {**os.environ, "UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"}
    subprocess.run(command, check=True, env=trusting)


if __name__ == "__main__":
    print(interpreter())
