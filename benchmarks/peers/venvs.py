"""Virtual environments with the packages of peers, made once below ``.bench/``."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REQUIREMENTS: Mapping[str, str] = {
    "swe-rex": "swe-rex==1.4.0",
    "rl-rock": "rl-rock[rocklet]==1.11.0",
}
INSTALL_S = 240


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
    directory = _directory(name)
    directory.parent.mkdir(parents=True, exist_ok=True)
    failed = Path(f"{directory}.failed")
    with Path(f"{directory}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / "complete").exists():
            return None
        shutil.rmtree(directory, ignore_errors=True)
        failed.unlink(missing_ok=True)
        reason = _install(directory, REQUIREMENTS[name])
        if reason is None:
            (directory / "complete").touch()
        else:
            failed.write_text(reason)
        return reason


def _install(directory: Path, requirement: str) -> str | None:
    python = directory / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    # It is to trust whom this machine trusts, as pip does: by either name, new or old.
    trusting = {**os.environ, "UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"}
    for command in (
        [*uv, "venv", "--python", sys.executable, str(directory)],
        [*uv, "pip", "install", "--python", str(python), requirement],
    ):
        try:
            done = subprocess.run(
                command, env=trusting, capture_output=True, text=True, timeout=INSTALL_S
            )
        except subprocess.TimeoutExpired:
            return f"{requirement} could not be installed in {INSTALL_S} s"
        if done.returncode != 0:
            said = " ".join(done.stderr.split())
            return f"{requirement} could not be installed: {said[-300:]}"
    return None


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
