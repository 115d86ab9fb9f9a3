"""Files in and out of a sandbox, beside ``cp``: what rows of ``run.py`` measure."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.run import timed
from rock_gym import Sandbox

_MEGABYTES = 100

Measures = tuple[Callable[[], float], Callable[[], float]]


@contextmanager
def _prepared() -> Iterator[tuple[Sandbox, Path]]:
    """A sandbox, and a directory with a file to copy."""
    # In memory on both sides: the moods of a disk are not what is measured.
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as directory,
        Sandbox.start(backend="bubblewrap", disk="400m") as sandbox,
    ):
        path = Path(directory)
        (path / "file").write_bytes(os.urandom(1 << 20) * _MEGABYTES)
        yield sandbox, path


def _cp(directory: Path) -> float:
    """Seconds that ``cp`` takes to make a file that is not there."""
    copy = directory / "copy"
    copy.unlink(missing_ok=True)
    return timed(lambda: subprocess.run(["cp", directory / "file", copy], check=True))


@contextmanager
def upload() -> Iterator[Measures]:
    """Seconds for a file into a sandbox, and for ``cp``."""
    with _prepared() as (sandbox, directory):

        def ours() -> float:
            sandbox.execute("rm -f file")
            return timed(lambda: sandbox.upload(directory / "file", "file"))

        yield ours, lambda: _cp(directory)


@contextmanager
def download() -> Iterator[Measures]:
    """Seconds for a file out of a sandbox, and for ``cp``."""
    with _prepared() as (sandbox, directory):
        sandbox.upload(directory / "file", "file")

        def ours() -> float:
            (directory / "back").unlink(missing_ok=True)
            return timed(lambda: sandbox.download("file", directory / "back"))

        yield ours, lambda: _cp(directory)
