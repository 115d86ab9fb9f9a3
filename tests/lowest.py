"""An environment with the lowest version of each dependency that ``pyproject.toml`` allows.

Built once on a machine and for each set of bounds; ``python -m tests.lowest`` builds it ahead.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from benchmarks.peers import venvs
from tests.isolated import built_once

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings along there

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
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
    extras = [word for name in EXTRAS for word in ("--extra", name)]
    venvs.add(python, "--resolution", "lowest-direct", "-r", str(PROJECT), *extras)


if __name__ == "__main__":
    print(interpreter())
