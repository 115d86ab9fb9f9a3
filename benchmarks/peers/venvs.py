"""Virtual environments that are made once on a machine; those of peers are below ``.bench/``."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

REQUIREMENTS: Mapping[str, str] = {
    "swe-rex": "swe-rex==1.4.0",
    "rl-rock": "rl-rock[rocklet]==1.11.0",
}
INSTALL_S = 240


def built(directory: Path, fill: Callable[[Path], object]) -> Path:
    """Return the interpreter of a virtual environment, which the first who asks for it makes.

    Args:
        directory: Where it is.
        fill: Puts into it what it is to have, by its interpreter. What that raises is raised, and
            who asks next tries again.
    """
    python = directory / "bin" / "python"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{directory}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = directory / "complete"
        if not done.exists():
            shutil.rmtree(directory, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", directory], check=True)
            fill(python)
            done.touch()
    return python


def add(python: Path, *words: str, timeout_s: float | None = None) -> None:
    """Have uv install what its words say for an interpreter.

    Raises:
        subprocess.CalledProcessError: If it cannot; has what uv said.
        subprocess.TimeoutExpired: If it takes longer.
    """
    command = [sys.executable, "-m", "uv", "--quiet", "pip", "install", "--python", str(python)]
    # It is to trust whom this machine trusts, as pip does: by either name, new or old.
    trusting = {**os.environ, "UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"}
    done = subprocess.run(
        [*command, *words],
        env=trusting,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout_s,
    )
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        done.check_returncode()


# Peers


def home() -> Path:
    """Where they are: ``ROCK_GYM_BENCH_PEERS``, or ``.bench/`` of the checkout."""
    default = Path(__file__).parents[2] / ".bench"
    return Path(os.environ.get("ROCK_GYM_BENCH_PEERS") or default)


def interpreter(name: str) -> Path:
    """Return the interpreter that has a peer's packages.

    Raises:
        LookupError: If they are not installed. Says why.
    """
    directory = _directory(name)
    if not (directory / "complete").exists():
        failed = Path(f"{directory}.failed")
        reason = failed.read_text() if failed.exists() else f"{REQUIREMENTS[name]} not installed"
        raise LookupError(reason)
    return directory / "bin" / "python"


def install(name: str) -> str | None:
    """Install a peer's packages where they are not yet; returns why that failed, if it did."""
    requirement = REQUIREMENTS[name]
    failed = Path(f"{_directory(name)}.failed")
    try:
        built(_directory(name), partial(_fill, requirement=requirement))
    except subprocess.TimeoutExpired:
        reason = f"{requirement} could not be installed in {INSTALL_S} s"
    except subprocess.CalledProcessError as error:
        said = " ".join((error.stderr or "").split())
        reason = f"{requirement} could not be installed: {said[-300:]}"
    else:
        failed.unlink(missing_ok=True)
        return None
    failed.write_text(reason)
    return reason


def _fill(python: Path, requirement: str) -> None:
    add(python, requirement, timeout_s=INSTALL_S)


def _directory(name: str) -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    requirement = REQUIREMENTS[name].replace("==", "-").replace("[", "-").replace("]", "")
    return home() / f"{requirement}-py{version}"


def versions() -> Mapping[str, str]:
    """The version of each that is installed, and why others are not."""

    def said(name: str) -> str:
        try:
            interpreter(name)
        except LookupError as error:
            return str(error)
        return REQUIREMENTS[name].partition("==")[2]

    return {name: said(name) for name in REQUIREMENTS}


if __name__ == "__main__":
    for each in REQUIREMENTS:
        print(each, install(each) or "is installed")
