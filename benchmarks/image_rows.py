"""What images cost: importing them, committing, and starting from a long chain of commits."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.table import Samples, of_floor, row, take_turns, timed

CHAIN = 30
FILES = 100
FILE_BYTES = 10_000
LARGE_BYTES = 50_000


@contextmanager
def store() -> Iterator[Path]:
    """A store of the row's own, and room beside it."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ["ROCK_GYM_DATA"] = directory
        yield Path(directory)


def write_tar(path: Path, total_bytes: int) -> Path:
    """A root directory of files that no compression or hole makes cheap."""
    with tarfile.open(path, "w") as archive:
        for number in range(max(1, total_bytes // LARGE_BYTES)):
            entry = tarfile.TarInfo(f"usr/lib/{number // 100}/{number}")
            entry.size = LARGE_BYTES
            archive.addfile(entry, io.BytesIO(os.urandom(LARGE_BYTES)))
    return path


@row(
    "image from a tar, per 100 MB",
    what="`import_image` of an archive without compression",
    isolation="both on the host",
    floor="`tar -x` of the same",
    count=5,
    bars=[of_floor(3)],
    unit="s",
)
def image_import(count: int) -> Samples:
    from rock_gym.images import Store
    from rock_gym.images.archive import import_image

    with store() as directory:
        archive = write_tar(directory / "archive", 100_000_000)
        target = directory / "unpacked"

        def ours() -> float:
            took = timed(lambda: import_image(archive, "image"))
            Store().remove("image")
            return took

        def floor() -> float:
            target.mkdir()
            command = ["tar", "-xf", str(archive), "-C", str(target)]
            took = timed(lambda: subprocess.run(command, check=True))
            shutil.rmtree(target)
            return took

        return take_turns(ours, floor, count)


@row(
    "commit of 100 files, 1 MB",
    what="`sandbox.commit` of what was written since the start",
    floor="copying as many on the host",
    count=50,
    bars=[of_floor(1.5)],
    unit="ms",
)
def commit(count: int) -> Samples:
    from rock_gym import Sandbox
    from rock_gym.images.archive import import_image

    with store() as directory:
        import_image(write_tar(directory / "archive", LARGE_BYTES), "image")
        source, target = directory / "source", directory / "target"
        source.mkdir()
        with Sandbox.start("image", backend="bubblewrap") as sandbox:
            for number in range(FILES):
                data = os.urandom(FILE_BYTES)
                sandbox.write_file(f"/data/{number}", data)
                (source / str(number)).write_bytes(data)

            def floor() -> float:
                took = timed(lambda: shutil.copytree(source, target))
                shutil.rmtree(target)
                return took

            names = (f"made-{number}" for number in itertools.count())
            return take_turns(lambda: timed(lambda: sandbox.commit(next(names))), floor, count)


@row(
    "start from a chain of 30 commits",
    what="from `Sandbox.start` to the end of the sandbox, with one file read",
    isolation="an embedded sandbox on both sides",
    floor="start from an image of one layer",
    count=100,
    bars=[of_floor(2)],
    unit="ms",
)
def chain(count: int) -> Samples:
    from rock_gym import Sandbox
    from rock_gym.images.archive import import_image

    def started(image: str) -> float:
        start = time.perf_counter()
        with Sandbox.start(image, backend="bubblewrap") as sandbox:
            sandbox.read_file("/usr/lib/0/0", encoding=None)
            return time.perf_counter() - start

    with store() as directory:
        import_image(write_tar(directory / "archive", LARGE_BYTES), "image")
        name = "image"
        for number in range(CHAIN):
            with Sandbox.start(name, backend="bubblewrap") as sandbox:
                sandbox.write_file(f"/layer/{number}", "x")
                name = f"chain-{number}"
                sandbox.commit(name)
        return take_turns(lambda: started(name), lambda: started("image"), count)
