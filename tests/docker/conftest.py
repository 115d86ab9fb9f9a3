"""Tests of what containers alone can do: skipped without an engine, unless it is required."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from rock_gym import Sandbox
from tests.gem.conftest import backend_or_skip

# The engine is the whole machine's, so others may run these tests at the same time.
BUSYBOX = f"rock-gym-test/busybox:{os.getpid()}"


@pytest.fixture(autouse=True, scope="session")
def engine() -> Any:
    """The engine of this machine."""
    backend_or_skip("docker")
    from rock_gym.backends.docker import DockerBackend

    backend = DockerBackend()
    yield backend.engine
    backend.close()


@pytest.fixture
def start() -> Iterator[Any]:
    """Start containers; all are stopped after the test."""
    with ExitStack() as stack:
        yield lambda image=None, **options: stack.enter_context(
            Sandbox.start(image, backend="docker", **options)
        )


@pytest.fixture(scope="session")
def busybox(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image with nothing but busybox in it."""
    if subprocess.run(["busybox", "true"], check=False).returncode != 0:
        pytest.skip("busybox is not installed: apt-get install busybox-static")
    root = tmp_path_factory.mktemp("busybox")
    (root / "bin").mkdir()
    path = subprocess.run(["which", "busybox"], capture_output=True, text=True, check=True).stdout
    subprocess.run(["cp", path.strip(), str(root / "bin" / "busybox")], check=True)
    for name in ("sh", "head", "chmod", "cat", "sleep", "readlink", "id", "seq", "grep"):
        (root / "bin" / name).symlink_to("busybox")
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        repository, _, tag = BUSYBOX.partition(":")
        engine.api.import_image_from_stream(tar.stdout, repository=repository, tag=tag)
    yield BUSYBOX
    engine.api.remove_image(BUSYBOX, force=True)
