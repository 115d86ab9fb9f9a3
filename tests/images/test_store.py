"""The store under concurrent use, crashes and removal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rock_gym.errors import ImageError, ImageNotFound
from rock_gym.images import Store
from rock_gym.images.archive import import_image
from rock_gym.images.export import export_image
from rock_gym.images.uses import Uses
from tests.images import archives as make
from tests.images.test_archive import BOTTOM, TOP, leftovers

# Begins an import as a process of its own does, says so, and goes on when its input ends.
SLOW_IMPORT = """
import sys
from pathlib import Path
from rock_gym.images import Store
from rock_gym.images.store import Config
with Store(Path(sys.argv[1])).draft("x") as draft:
    layer = draft.make()
    (layer / sys.argv[2]).write_text("content")
    print("begun", flush=True)
    sys.stdin.read()
    draft.add(sys.argv[2], layer, 7)
    draft.publish(Config())
print("done", flush=True)
"""


def slow_import(store: Store, content: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_IMPORT, str(store.root), content],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return make.write(tmp_path / "archive", make.oci(BOTTOM, TOP))


def test_an_empty_store(store: Store) -> None:
    """It is not even made by looking at it."""
    assert store.list() == []
    with pytest.raises(ImageNotFound, match="rock-gym image list"):
        store.get("x")
    assert not store.root.exists()


def test_it_is_closed_to_others(store: Store, small: Path) -> None:
    """There are set-user-id programs of strangers in it."""
    store.root.mkdir(mode=0o755)
    import_image(small, "x", store)
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


def test_names(store: Store, small: Path) -> None:
    for name in ("x", "x:2", "reg.example:5000/team/x_y:1.0-b"):
        import_image(small, name, store)
    found = [image.name for image in store.list()]
    assert found == ["reg.example:5000/team/x_y:1.0-b", "x:2", "x:latest"]
    assert store.get("x") == store.get("x:latest")


def test_a_name_is_given_to_another_image(store: Store, tmp_path: Path, small: Path) -> None:
    """The layers of the old one go, as soon as something else changes."""
    import_image(small, "x", store)
    other = import_image(make.write(tmp_path / "other", make.tar(("a", b""))), "x", store)
    assert store.list() == [other]
    store.remove("x")
    assert leftovers(store) == []


def test_removal_of_an_image_in_use(store: Store, small: Path) -> None:
    """It is refused and changes nothing, until it is not in use any more."""
    image = import_image(small, "x", store)
    uses = Uses()
    first, second = (uses.hold(store, image.layers) for _ in range(2))
    uses.release(first)
    with pytest.raises(ImageError, match="in use"):
        store.remove("x")
    assert store.list() == [image]
    assert all(os.path.isdir(store.layer_path(layer)) for layer in image.layers)
    uses.release(second)
    store.remove("x")
    assert leftovers(store) == []


def test_a_replaced_image_in_use_stays(store: Store, tmp_path: Path, small: Path) -> None:
    """For those that use it, and goes afterwards."""
    old = import_image(small, "x", store)
    uses = Uses()
    held = uses.hold(store, old.layers)
    archive = make.write(tmp_path / "other", make.tar(("a", b"")))
    for _ in range(3):
        import_image(archive, "x", store)
    assert all(os.path.isdir(store.layer_path(layer)) for layer in old.layers)
    uses.release(held)
    store.remove("x")
    assert leftovers(store) == []


def test_an_alias_of_an_image_in_use_can_go(store: Store, small: Path) -> None:
    image = import_image(small, "x", store)
    import_image(small, "y", store)
    uses = Uses()
    held = uses.hold(store, image.layers)
    store.remove("y")
    uses.release(held)
    assert [one.name for one in store.list()] == ["x:latest"]


def test_a_forked_child_uses_nothing(store: Store, small: Path) -> None:
    """It may live longer than the sandboxes of its parent."""
    image = import_image(small, "x", store)
    uses = Uses()
    held = uses.hold(store, image.layers)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        uses.release(held)
        store.remove("x")
    finally:
        os.close(write)
        os.waitpid(pid, 0)
    assert leftovers(store) == []


def test_two_imports_of_one_name(store: Store) -> None:
    """The second waits for the first, and wins."""
    first = slow_import(store, "first")
    assert line(first) == "begun"
    second = slow_import(store, "second")
    with first, second:
        first.communicate()
        assert line(second) == "begun"
        assert os.listdir(store.layer_path(store.get("x").layers[0])) == ["first"]
        second.communicate()
    assert os.listdir(store.layer_path(store.get("x").layers[0])) == ["second"]


def test_a_killed_import(store: Store, small: Path) -> None:
    """What it left is removed at the next use, while that of a living one is not."""
    killed, living = slow_import(store, "killed"), None
    with killed:
        assert line(killed) == "begun"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    living = slow_import(store, "living")
    with living:
        assert line(living) == "begun"
        import_image(small, "y", store)
        assert len(os.listdir(store.root / "drafts")) == 1
        living.communicate()
        assert living.returncode == 0
    assert os.listdir(store.layer_path(store.get("x").layers[0])) == ["living"]
    store.remove("x")
    store.remove("y")
    assert leftovers(store) == []


def test_layers_that_no_name_stands_for(store: Store, small: Path) -> None:
    """As a process leaves them that is killed between the two."""
    image = import_image(small, "x", store)
    os.unlink(store.root / "names" / "x%3Alatest.json")
    import_image(small, "y", store)
    assert store.get("y").layers == image.layers
    store.remove("y")
    assert leftovers(store) == []


def test_a_broken_manifest(store: Store, small: Path) -> None:
    """As a power cut leaves it: there is no such image, and it can be imported again."""
    import_image(small, "x", store)
    (store.root / "names" / "x%3Alatest.json").write_text("")
    assert store.list() == []
    with pytest.raises(ImageNotFound):
        store.get("x")
    import_image(small, "x", store)
    assert [image.name for image in store.list()] == ["x:latest"]


def test_many_at_once(store: Store, tmp_path: Path) -> None:
    """Threads that import, remove and list the same few names never see half of anything."""
    archives = [
        make.write(tmp_path / f"archive{n}", make.oci(BOTTOM, make.tar((f"f{n}", b"x"))))
        for n in range(3)
    ]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                name = f"x{(number + turn) % 3}"
                image = import_image(archives[number % 3], name, store)
                assert len(image.layers) == 2
                for found in store.list():
                    assert found.config.architecture == make.ARCHITECTURE
                # Another may be faster, or be importing the same layers.
                with contextlib.suppress(ImageNotFound, ImageError):
                    store.remove(name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for image in store.list():
        assert all(os.path.isdir(store.layer_path(layer)) for layer in image.layers)
        store.remove(image.name)
    assert leftovers(store) == []


def test_an_export_comes_back_the_same(store: Store, tmp_path: Path) -> None:
    """Whiteouts, links, modes and settings too; and the archive is an OCI layout and docker's."""
    more = make.tar(
        make.entry("hard", size=3, mode=0o600),
        make.entry("link", make.tarfile.LNKTYPE, linkname="hard"),
        make.entry("soft", make.tarfile.SYMTYPE, linkname="/hard"),
        make.entry("secret", size=5, mode=0),
        make.entry("closed", make.tarfile.DIRTYPE, mode=0),
        make.entry("closed/in", size=5),
    )
    files = make.oci(BOTTOM, TOP, more, Env=["A=b"], WorkingDir="/srv")
    before = import_image(make.write(tmp_path / "archive", files), "x", store)
    export_image("x", tmp_path / "out.tar", store)
    with make.tarfile.open(tmp_path / "out.tar") as archive:
        names = set(archive.getnames())
        member = archive.extractfile("manifest.json")
        assert member is not None
        docker = json.load(member)
    assert {"oci-layout", "index.json", docker[0]["Config"], *docker[0]["Layers"]} <= names
    assert docker[0]["RepoTags"] == ["x:latest"]
    after = import_image(tmp_path / "out.tar", "y", store)
    assert after.config == before.config
    assert after.sizes == before.sizes
    for ours, theirs in zip(before.layers, after.layers, strict=True):
        assert listing(store.layer_path(ours)) == listing(store.layer_path(theirs))


def listing(root: str) -> dict[str, tuple[int, int, int, str]]:
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            seen = os.lstat(path)
            target = os.readlink(path) if stat.S_ISLNK(seen.st_mode) else ""
            links = 0 if stat.S_ISDIR(seen.st_mode) else seen.st_nlink
            found[os.path.relpath(path, root)] = (seen.st_mode, links, seen.st_rdev, target)
    return found


def test_an_export_that_cannot_be_written(store: Store, tmp_path: Path, small: Path) -> None:
    import_image(small, "x", store)
    with pytest.raises(ImageError, match="cannot be exported"):
        export_image("x", tmp_path / "nowhere" / "out.tar", store)
