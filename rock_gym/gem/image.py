"""The image that GEM environments run in on an engine, and how it is built.

Wheels are collected here and installed there, so that no network is needed inside and the base
need not have pip. GEM lies in directories of its own, beside whatever the base's Python has.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rock_gym.backends.base import CommittedImage
from rock_gym.errors import CommandFailed, EnvUnavailable, FileError, StartFailed
from rock_gym.gem.catalog import GEM_VERSION
from rock_gym.gem.interpreter import FILL, REQUIREMENTS, GuestPython
from rock_gym.sandbox import Sandbox

__all__ = ["GEM_IMAGE", "build_image", "image_python"]

GEM_IMAGE = f"rock-gym/gem:{GEM_VERSION}"
DEFAULT_BASE = "python:3.11"

_HOME = "/opt/rock-gym"
_PYTHON = f"{_HOME}/python"
# By that name, as dill, which data sets use, takes modules elsewhere for the user's own.
_SITE = f"{_HOME}/site-packages"
_CACHE = f"{_HOME}/cache"
_WHEELS = "/var/tmp/rock-gym-wheels"
_MINORS = (10, 11, 12)
_INSTALL_S = 1800.0

# What the base's interpreter says of itself.
_QUERY = "import json, platform, sys; print(json.dumps([sys.executable, *sys.version_info[:2]]))"


def image_python(executable: str | None = None) -> GuestPython:
    """Return the interpreter that an image has for guests.

    Args:
        executable: One that finds GEM by itself; None for the one that ``build_image`` set up.
    """
    remedy = f"start from an image that has it, such as {GEM_IMAGE}; rock-gym image build gem"
    if executable is not None:
        return GuestPython(executable, (), (), None, finds_packages=True, remedy=remedy)
    return GuestPython(_PYTHON, (_SITE,), (), _CACHE, remedy=remedy)


def build_image(
    base: str = DEFAULT_BASE,
    *,
    name: str = GEM_IMAGE,
    python: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> CommittedImage:
    """Build the image for GEM environments, without a network inside.

    Args:
        base: An image of the engine with Python 3.10 to 3.12.
        name: What the image is called.
        python: An interpreter here of the same version as the base's, which collects the wheels;
            None to look for one.
        progress: Is told what is being done.

    Raises:
        ImageNotFound: If the engine has no such base.
        BackendUnavailable: If no engine answers.
        EnvUnavailable: If the base has no such Python, or the wheels cannot be collected.
        StartFailed: If they cannot be installed; carries the last output.
    """
    progress(f"starting from {base}")
    with Sandbox.start(base, backend="docker") as sandbox, tempfile.TemporaryDirectory() as wheels:
        inside, minor = _look_at_python(sandbox, base)
        _collect(python or _find_python(minor), Path(wheels), progress)
        _send(sandbox, Path(wheels), progress)
        progress("installing")
        _install(sandbox, inside)
        progress(f"committing {name}")
        return sandbox.commit(name)


def _look_at_python(sandbox: Sandbox, base: str) -> tuple[str, int]:
    for candidate in ("python3", "python"):
        try:
            done = sandbox.execute([candidate, "-c", _QUERY])
        except FileError:
            continue
        if done.exit_code == 0:
            executable, major, minor = json.loads(done.stdout)
            if major == 3 and minor in _MINORS:
                return executable, minor
    raise EnvUnavailable(f"{base} has no Python 3.10 to 3.12; choose another one by --base")


def _find_python(minor: int) -> str:
    """Return an interpreter here that collects wheels for that version."""
    if sys.version_info[1] == minor:
        return sys.executable
    found = shutil.which(f"python3.{minor}")
    if found is None:
        raise EnvUnavailable(
            f"wheels for Python 3.{minor} are collected by one here, and there is none: install "
            f"python3.{minor}, or choose a base with Python 3.{sys.version_info[1]} by --base"
        )
    return found


def _collect(python: str, wheels: Path, progress: Callable[[str], None]) -> None:
    """Download wheels, and build those that are not to be had."""
    progress("collecting wheels")
    command = [python, "-m", "pip", "wheel", "--disable-pip-version-check", "--quiet"]
    # GEM's metadata end at 3.12.0, its code does not.
    command += ["--ignore-requires-python", "--wheel-dir", str(wheels), "pip", *REQUIREMENTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvUnavailable(
            f"the wheels cannot be collected: {done.stderr.strip()[-500:]}", output=done.stderr
        )


def _send(sandbox: Sandbox, wheels: Path, progress: Callable[[str], None]) -> None:
    for number, wheel in enumerate(found := sorted(wheels.glob("*.whl")), 1):
        progress(f"copying {wheel.name} ({number} of {len(found)})")
        sandbox.write_file(f"{_WHEELS}/{wheel.name}", wheel.read_bytes())


def _install(sandbox: Sandbox, inside: str) -> None:
    pip = f"$(echo {_WHEELS}/pip-*.whl)/pip"
    environment = f"HOME={_CACHE} MPLCONFIGDIR={_CACHE}/matplotlib"
    fill = f"{environment} {_PYTHON} -S -s -c {_quote(FILL)} {_quote(json.dumps([_SITE]))}"
    script = f"""
        set -e
        mkdir -p {_SITE} {_CACHE}/matplotlib
        ln -sf {_quote(inside)} {_PYTHON}
        {_PYTHON} {pip} install --no-index --find-links {_WHEELS} --target {_SITE} --quiet \
            --ignore-requires-python --no-warn-script-location --root-user-action ignore \
            --disable-pip-version-check {" ".join(map(_quote, REQUIREMENTS))}
        {fill}
        rm -rf {_WHEELS}
        chmod -R a+rX {_HOME}
    """
    try:
        sandbox.execute(script, timeout=_INSTALL_S, check=True)
    except CommandFailed as error:
        raise StartFailed(
            f"GEM cannot be installed in the image: {(error.output or '').strip()[-500:]}",
            sandbox_id=sandbox.id,
            output=error.output,
        ) from error


def _quote(text: str) -> str:
    return "'" + os.fspath(text).replace("'", "'\\''") + "'"
