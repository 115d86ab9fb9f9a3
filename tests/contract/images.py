"""The image that tests of images start from, for each backend, and things to install in it.

It is made of the tar that ROCK_GYM_TEST_BASE_TAR names: a small Debian with python3 and without
pip, as mmdebstrap makes it. Without the variable the tests are skipped, and where every backend
is required they fail.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from pathlib import Path

import pytest

# An engine has one set of names for all who use it: other runs, and other workers of this one.
BASE = f"rock-gym-test-base-{os.getpid()}"
VARIABLE = "ROCK_GYM_TEST_BASE_TAR"


def base_tar() -> str:
    """The tar, or a skip or failure."""
    path = os.environ.get(VARIABLE)
    if path:
        return path
    reason = f"{VARIABLE} names no tar of a Debian root; make one by: mmdebstrap --variant=minbase "
    reason += "--include=python3,python3-venv,python-is-python3,ca-certificates bookworm base.tar"
    if "docker" in os.environ.get("ROCK_GYM_REQUIRE", ""):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def make_base(backend: str, name: str) -> None:
    """Give a backend the image."""
    if backend == "docker":
        import docker

        client = docker.from_env()
        try:
            client.api.import_image(src=base_tar(), repository=name, tag="latest")
        finally:
            client.close()
        return
    from rock_gym.images.archive import import_image

    import_image(base_tar(), name)


def remove(backend: str, name: str) -> None:
    """Remove an image."""
    if backend == "docker":
        import docker

        client = docker.from_env()
        try:
            with contextlib.suppress(docker.errors.ImageNotFound):
                client.images.remove(name, force=True)
        finally:
            client.close()
        return
    from rock_gym.images import Store

    Store().remove(name)


def wheel() -> bytes:
    """A package ``demo`` of one module and one program, built by hand."""
    buffer = io.BytesIO()
    info = "demo-1.0.dist-info"
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("demo.py", "def main():\n    print('demo runs')\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", "[console_scripts]\ndemo = demo:main\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


def pip() -> bytes:
    """This interpreter's pip as a zip that ``python pip.zip/pip`` runs."""
    import pip as installed

    root = Path(installed.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in root.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, Path("pip", path.relative_to(root)))
    return buffer.getvalue()
