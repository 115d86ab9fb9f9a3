"""The store when several are at it at once, when one is killed, and when the disk is full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rock_gym.errors import ImageError, ImageNotFound
from rock_gym.images.archive import import_image
from rock_gym.images.store import Store
from tests.images.forge import entry, tar, write

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


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


def test_imports_of_one_name_make_one_of_them(store: Store, tmp_path: Path) -> None:
    sources = [archive(tmp_path / str(number), f"text {number}") for number in range(4)]
    together([lambda path=path: import_image(path, "same", store) for path in sources])  # type: ignore[misc]
    assert len(texts(store, "same")) == 1
    with store.draft("another"):
        pass  # what was replaced is removed by the next change
    assert len(os.listdir(store.root / "layers")) == 1
    assert os.listdir(store.root / "drafts") == []


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


def test_a_killed_import_leaves_nothing_for_long(store: Store, tmp_path: Path) -> None:
    """Its name stands for what it stood for, and what it has unpacked goes at the next use."""
    import_image(archive(tmp_path / "old", "old"), "name", store)
    script = (
        "import sys; from pathlib import Path\n"
        "from rock_gym.images.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "with store.draft('name') as draft:\n"
        "    (draft.make() / 'half').write_text('half')\n"
        "    print('half', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(os.listdir(store.root / "drafts")) == 1
        # While it lives, others leave it alone.
        import_image(archive(tmp_path / "other", "other"), "other", store)
        assert len(os.listdir(store.root / "drafts")) == 1
        process.send_signal(signal.SIGKILL)
    assert texts(store, "name") == {"old"}
    import_image(archive(tmp_path / "new", "new"), "name", store)
    assert os.listdir(store.root / "drafts") == []
    assert texts(store, "name") == {"new"}


def test_a_failed_import_keeps_what_had_the_name(store: Store, tmp_path: Path) -> None:
    import_image(archive(tmp_path / "old", "old"), "name", store)
    with pytest.raises(ImageError):
        import_image(write(tmp_path / "bad", b"bad" * 1000), "name", store)
    assert texts(store, "name") == {"old"}


def test_a_name_cut_short_by_a_power_cut_stands_for_nothing(store: Store, tmp_path: Path) -> None:
    import_image(archive(tmp_path / "a", "a"), "a", store)
    import_image(archive(tmp_path / "b", "b"), "b", store)
    for text in ("", '{"format": 1', "\0" * 300):
        next(
            path for path in (store.root / "names").iterdir() if path.name.startswith("a")
        ).write_text(text)
        assert [image.name for image in store.list()] == ["b:latest"]
        with pytest.raises(ImageNotFound):
            store.get("a")
        import_image(archive(tmp_path / "a", "a"), "a", store)
        assert texts(store, "a") == {"a"}


def test_another_version_of_the_format_is_told_of(store: Store, tmp_path: Path) -> None:
    import_image(archive(tmp_path / "a", "a"), "a", store)
    (path,) = (store.root / "names").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 999}))
    with pytest.raises(ImageError, match="version"):
        store.get("a")


def test_layers_are_kept_for_as_long_as_they_are_held(store: Store, tmp_path: Path) -> None:
    import_image(archive(tmp_path / "old", "old"), "name", store)
    (layer,) = store.get("name").layers
    held = store.hold(layer)
    try:
        with pytest.raises(ImageError, match="in use"):
            store.remove("name")
        import_image(archive(tmp_path / "new", "new"), "name", store)
        import_image(archive(tmp_path / "new", "new"), "other", store)
        assert {path.read_text() for path in Path(store.layer_path(layer)).iterdir()} == {"old"}
    finally:
        os.close(held)
    store.remove("other")
    assert not Path(store.layer_path(layer)).exists()
    assert texts(store, "name") == {"new"}


def test_a_layer_that_two_have_outlives_one(store: Store, tmp_path: Path) -> None:
    source = archive(tmp_path / "archive", "text")
    import_image(source, "one", store)
    import_image(source, "two", store)
    store.remove("one")
    assert texts(store, "two") == {"text"}
    store.remove("two")
    assert os.listdir(store.root / "layers") == []


@pytest.mark.parametrize(
    "name", ["", "host", ".", "..", "../a", "/a", "a/../b", "a b", "a\0", "-a", "a" * 300]
)
def test_what_is_no_name_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        import_image(archive(tmp_path / "archive", "text"), name, store)
    assert not store.root.exists() or not os.listdir(store.root / "layers")


def test_the_store_is_closed_to_others(store: Store, tmp_path: Path) -> None:
    """Also one that somebody has opened by accident."""
    store.root.mkdir(parents=True, mode=0o755)
    import_image(archive(tmp_path / "archive", "text"), "name", store)
    assert store.root.stat().st_mode & 0o077 == 0


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
