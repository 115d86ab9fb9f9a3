"""What files in and out of a sandbox cost, beside ``cp`` of the same file."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.table import Samples, of_floor, row, take_turns, timed

if TYPE_CHECKING:
    from rock_gym import Sandbox

_MEGABYTES = 100


@contextmanager
def _prepared() -> Iterator[tuple[Sandbox, Path]]:
    """A sandbox, and a directory with a file to copy."""
    from rock_gym import Sandbox

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


@row(
    "100 MB upload",
    what="`sandbox.upload` of a file in memory to one in memory",
    floor="`cp` of the same file",
    count=10,
    bars=[of_floor(1.5)],
    unit="ms",
)
def upload(count: int) -> Samples:
    with _prepared() as (sandbox, directory):

        def ours() -> float:
            sandbox.execute("rm -f file")
            return timed(lambda: sandbox.upload(directory / "file", "file"))

        return take_turns(ours, lambda: _cp(directory), count)


@row(
    "100 MB download",
    what="`sandbox.download` of a file in memory to one in memory",
    floor="`cp` of the same file",
    count=10,
    bars=[of_floor(1.5)],
    unit="ms",
)
def download(count: int) -> Samples:
    with _prepared() as (sandbox, directory):
        sandbox.upload(directory / "file", "file")

        def ours() -> float:
            (directory / "back").unlink(missing_ok=True)
            return timed(lambda: sandbox.download("file", directory / "back"))

        return take_turns(ours, lambda: _cp(directory), count)
