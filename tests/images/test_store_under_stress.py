"""The store when several are at it at once, when one is killed, and when the disk is full."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rock_gym.errors import ImageError
from rock_gym.images.archive import import_image
from rock_gym.images.store import Store
from tests.images.archives import write
from tests.images.forge import entry, tar

MIB = 1 << 20


def archive(path: Path, text: str, files: int = 50) -> Path:
    """Every file of it holds the same text, so that a mixture would show."""
    return write(path, tar(entry(f"f{number}", text.encode()) for number in range(files)))


def texts(store: Store, name: str) -> set[str]:
    (layer,) = store.get(name).layers
    return {path.read_text() for path in Path(store.layer_path(layer)).iterdir()}


def together(actions: list[Callable[[], object]]) -> None:
    """Run in threads that begin at the same moment; what one raises is raised here."""
    barrier = threading.Barrier(len(actions))
    errors: list[BaseException] = []

    def run(action: Callable[[], object]) -> None:
        barrier.wait()
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_imports_of_many_names_do_not_disturb_each_other(store: Store, tmp_path: Path) -> None:
    """Each sweeps the store while others make and remove their drafts."""
    names = [f"image{number}" for number in range(6)]
    sources = {name: archive(tmp_path / name, name, files=5) for name in names}

    def work(name: str) -> None:
        for _ in range(15):
            import_image(sources[name], name, store)
            assert texts(store, name) == {name}
            store.remove(name)

    together([lambda name=name: work(name) for name in names])  # type: ignore[misc]
    assert store.list() == []
    assert os.listdir(store.root / "layers") == []


def test_processes_share_a_store(store: Store, tmp_path: Path) -> None:
    source = archive(tmp_path / "archive", "text")
    script = (
        "import sys; from pathlib import Path\n"
        "from rock_gym.images.archive import import_image\n"
        "from rock_gym.images.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for _ in range(10): import_image(sys.argv[2], 'same', store)\n"
    )
    command = [sys.executable, "-c", script, str(store.root), str(source)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert texts(store, "same") == {"text"}


def test_a_failed_import_keeps_what_had_the_name(store: Store, tmp_path: Path) -> None:
    import_image(archive(tmp_path / "old", "old"), "name", store)
    with pytest.raises(ImageError):
        import_image(write(tmp_path / "bad", b"bad" * 1000), "name", store)
    assert texts(store, "name") == {"old"}


FULL = """
set -eu
mount -t tmpfs -o size=4m,nr_inodes=500,mode=700 none "$1"
exec "$2" -c "
import os, sys
from pathlib import Path
from rock_gym.errors import ImageError
from rock_gym.images.archive import import_image
from rock_gym.images.store import Store
store = Store(Path(sys.argv[1]) / 'images')
try:
    import_image(sys.argv[2], 'big', store)
except ImageError as error:
    print(error)
left = [os.listdir(store.root / folder) for folder in ('layers', 'drafts', 'names')]
assert left == [[], [], []], left
free = os.statvfs(sys.argv[1])
assert free.f_bfree > free.f_blocks * 0.9
import_image(sys.argv[3], 'small', store)
" "$1" "$3" "$4"
"""


@pytest.mark.parametrize("kind", ["bytes", "files"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """And there is room for something smaller at once."""
    if kind == "bytes":
        big = write(tmp_path / "big", tar([entry("big", os.urandom(8 * MIB))]))
    else:
        big = write(tmp_path / "big", tar(entry(f"d{n}/x", b"") for n in range(4000)))
    small = archive(tmp_path / "small", "small", files=3)
    place = tmp_path / "place"
    place.mkdir()
    unshare = ["unshare", "--mount", "--user", "--map-root-user", "--propagation", "private"]
    done = subprocess.run(
        [*unshare, "sh", "-c", FULL, "sh", str(place), sys.executable, str(big), str(small)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "disk is full" in done.stdout
