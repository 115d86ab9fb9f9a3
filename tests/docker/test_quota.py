"""Sizes of roots that the engine's storage driver holds: btrfs, on a file system of the test's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rock_gym import FileError, Sandbox
from rock_gym.backends.docker import DockerBackend
from tests.docker.private_engine import PrivateEngine, place

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start an engine"),
]
FILL = "head -c 200000000 /dev/zero >/big"
MIB = 1 << 20


@pytest.fixture(scope="module")
def backend(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerBackend]:
    """A backend on an engine whose driver can limit what a container writes."""
    if shutil.which("mkfs.btrfs") is None or "btrfs" not in Path("/proc/filesystems").read_text():
        pytest.skip("there is no btrfs here")
    disk = tmp_path_factory.mktemp("disk") / "image"
    with disk.open("wb") as file:
        file.truncate(2 << 30)
    subprocess.run(["mkfs.btrfs", "-q", disk], check=True, capture_output=True)
    made = PrivateEngine(place("btrfs"), "--storage-driver=btrfs", disk=disk)
    try:
        made.start()
        made.supply()
        backend = DockerBackend(made.url)
        yield backend
        backend.close()
    finally:
        made.clean()


def test_a_root_takes_no_more_than_its_size(backend: DockerBackend) -> None:
    with (
        Sandbox.start("small:1", backend=backend, disk="64m") as sandbox,
        Sandbox.start("small:1", backend=backend) as beside,
    ):
        assert sandbox.capabilities.disk == "quota"
        full = sandbox.execute(FILL)
        assert full.exit_code != 0
        assert full.cause == "disk"
        used = sandbox.statistics()
        assert used.disk_limit_bytes == 64 * MIB
        assert used.disk_bytes is not None
        assert 60 * MIB < used.disk_bytes <= 64 * MIB
        with pytest.raises(FileError, match="quota"):
            sandbox.write_file("/more", b"x" * 1_000_000)
        # It is its own limit, and holds no longer than it is full.
        assert beside.execute(FILL).exit_code == 0
        assert sandbox.execute("busybox rm /big").exit_code == 0
        fits = sandbox.execute("head -c 10000000 /dev/zero >/fits; exit 3")
        assert (fits.stderr, fits.exit_code, fits.cause) == ("", 3, None)


def test_files_of_the_image_do_not_count(backend: DockerBackend) -> None:
    with Sandbox.start("small:1", backend=backend) as sandbox:
        assert sandbox.execute("head -c 100000000 /dev/zero >/large").exit_code == 0
        sandbox.commit("large:1")
    with Sandbox.start("large:1", backend=backend, disk="64m") as sandbox:
        assert sandbox.execute("head -c 50000000 /dev/zero >/fits").exit_code == 0
        assert sandbox.execute(FILL).cause == "disk"
