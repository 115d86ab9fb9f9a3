"""What is built and installed: nothing is missing, and every lower bound is one that works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest

import rock_gym
from tests import lowest

ROOT = Path(__file__).parents[1]
SMOKE = Path(__file__).with_name("smoke.py")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a wheel and a source distribution are, made of a copy of what git knows."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def test_the_wheel_has_the_package_and_no_more(wheel: Path) -> None:
    names = names_in(wheel)
    assert {"rock_gym/py.typed", "rock_gym/__main__.py", "rock_gym/gem/guest.py"} <= names
    assert "rock_gym/backends/launcher/__main__.py" in names
    for machine in ("x86_64", "aarch64"):
        assert f"rock_gym/backends/launcher/forker/forker.{machine}" in names
        assert f"rock_gym/backends/docker/agent/agent.{machine}" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"rock_gym", f"rock_gym-{rock_gym.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or ".mypy_cache" in name]
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rock_gym").rglob("*.py")}
    assert ours <= names


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    told = metadata(wheel)
    assert told["Version"] == rock_gym.__version__
    assert told["License-Expression"] == "Apache-2.0"
    assert set(told.get_all("Provides-Extra", [])) >= {"data", "server", "words"}
    assert "# rock-gym" in told.get_payload()


def test_the_source_gives_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        # Pythons before 3.11.4 know no filters, and newer ones warn of those who name none.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path, **safely)
    (unpacked,) = tmp_path.iterdir()
    assert {"LICENSE", "CHANGELOG.md", "README.md", "tests"} <= set(os.listdir(unpacked))
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=unpacked, check=True, capture_output=True)
    (again,) = tmp_path.glob("*.whl")
    assert names_in(again) == names_in(wheel)


def test_every_dependency_has_a_lower_bound(wheel: Path) -> None:
    required = metadata(wheel).get_all("Requires-Dist", [])
    assert required
    for each in required:
        assert re.match(r"[\w.-]+(\[.*\])?(>=|==)", each) or each.startswith("rock-gym["), each


@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
def test_it_works_with_the_lowest_of_all(backend: str, wheel: Path, tmp_path: Path) -> None:
    """Installed from the wheel into a clean environment, by the lowest versions it asks for."""
    base = lowest.interpreter()
    # Another environment on top of that one, so that it stays as it is for others.
    home = tmp_path / "venv"
    subprocess.run([base, "-m", "venv", "--without-pip", home], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    (below,) = base.parents[1].glob("lib/python*/site-packages")
    (site / "below.pth").write_text(f"{below}\n")
    python = home / "bin" / "python"
    pip = [base, "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", wheel], check=True)
    checked = subprocess.run([*pip, "check"], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout
    done = subprocess.run([python, SMOKE], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # What was tried is what is said: nothing from this environment came in.
    assert json.loads(done.stdout)["click"] == "8.1.0"
    assert "Warning" not in done.stderr
