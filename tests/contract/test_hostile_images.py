"""Images and sandboxes that mean harm to what starts, commits and stores them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rock_gym import Sandbox
from rock_gym.errors import ImageError, StartFailed
from rock_gym.images.archive import import_image
from rock_gym.images.store import Store
from tests.contract import images
from tests.contract.support import host_mounts
from tests.images.archives import ARCHITECTURE, describe, digest, lay_out
from tests.images.forge import entry, link, tar

BACKEND = "bubblewrap"


@pytest.fixture(scope="module")
def base(data: Path) -> Iterator[str]:
    """The digest of the small Debian, whose layer the store then has."""
    found = digest(Path(images.base_tar()).read_bytes())
    before = {image.name for image in Store().list()}
    if f"{images.BASE}:latest" not in before:
        images.make_base(BACKEND, images.BASE)
        before = {image.name for image in Store().list()}
    yield found
    for image in Store().list():
        if image.name not in before:
            Store().remove(image.name)


def layout(place: Path, base: str, *layers: bytes) -> Path:
    """An OCI layout of the Debian and further layers, without a copy of it."""
    digests = [f"sha256:{one}" for one in (base, *map(digest, layers))]
    about = {"rootfs": {"diff_ids": digests}, "architecture": ARCHITECTURE, "os": "linux"}
    config = json.dumps(about).encode()
    described = [{"digest": f"sha256:{base}"}, *map(describe, layers)]
    manifest = json.dumps({"config": describe(config), "layers": described}).encode()
    index = json.dumps({"manifests": [describe(manifest)]}).encode()
    blobs = {f"blobs/sha256/{digest(one)}": one for one in (*layers, config, manifest)}
    lay_out(place, {**blobs, "index.json": index, "oci-layout": b"{}"})
    (place / "blobs" / "sha256" / base).symlink_to(Path(images.base_tar()).resolve())
    return place


@pytest.fixture
def sandbox(base: str) -> Iterator[Sandbox]:
    with Sandbox.start(images.BASE, backend=BACKEND) as started:
        yield started


def layer_of(name: str) -> Path:
    """What a commit has added."""
    store = Store()
    return Path(store.layer_path(store.get(name).layers[-1]))


def import_over(base: str, tmp_path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> None:
    """Import an image of two layers: a Debian, and what is to harm."""
    import_image(layout(tmp_path / "layout", base, tar(entries)), "hostile")


def gone(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(f".wh.{name}", b"")


IMAGES = {
    "dev is a link": [gone("dev"), link("dev", "/etc")],
    "dev leads out": [gone("dev"), link("dev", "../../../../../../sys")],
    "dev is a file": [gone("dev"), entry("dev", b"")],
    "proc is a link": [gone("proc"), link("proc", "/etc")],
    "proc is a file": [gone("proc"), entry("proc", b"")],
    "sys is a link": [gone("sys"), link("sys", "/etc")],
    "tmp leads out": [gone("tmp"), link("tmp", "../../../../../../sys")],
    "tmp leads nowhere": [gone("tmp"), link("tmp", "/nowhere")],
    "tmp leads in a ring": [gone("tmp"), link("tmp", "tmp")],
    "tmp is a file": [gone("tmp"), entry("tmp", b"")],
    "run is a link": [gone("run"), link("run", "/etc")],
    "run leads nowhere": [gone("run"), link("run", "/nowhere")],
    "the run directory is a file": [entry("run/rock-gym", b"")],
    "the run directory is a link": [link("run/rock-gym", "/etc")],
    "root is a link": [gone("root"), link("root", "/etc")],
    "work is a link": [link("work", "/etc")],
    "work is a file": [entry("work", b"")],
    "etc is a link": [link("etc", "/usr")],
    "hosts is a link": [link("etc/hosts", "/proc/1/environ")],
    "hosts is a folder": [entry("etc/hosts")],
    "the root is closed": [entry("", mode=0o000)],
    "the root belongs to nobody": [entry("", mode=0o755, uid=70000, gid=70000)],
    "our own name is taken": [link("dev/rock-gym", "/etc"), link("rock-gym", "/etc")],
}


# Where there is no place to mount something, or none to work in.
MAY_FAIL = re.compile("dev|proc|nowhere|ring|is a file|root is closed|run directory|hosts is a f")


@pytest.mark.parametrize("what", IMAGES)
def test_a_hostile_image_starts_or_says_why_not(base: str, tmp_path: Path, what: str) -> None:
    """Nothing of the machine is changed or shown by it, and the next sandbox starts."""
    before = host_mounts()
    import_over(base, tmp_path, *IMAGES[what])
    hosts = Path("/etc/hosts").read_bytes()
    try:
        with Sandbox.start("hostile", backend=BACKEND) as started:
            assert started.execute("echo works").stdout == "works\n"
            started.write_file("file", "text")
            assert started.read_file("file") == "text"
    except StartFailed as error:
        assert MAY_FAIL.search(what), error
    assert Path("/etc/hosts").read_bytes() == hosts
    assert host_mounts() == before
    with Sandbox.start(images.BASE, backend=BACKEND) as started:
        assert started.execute("echo fine").stdout == "fine\n"


def python(sandbox: Sandbox, code: str) -> str:
    return sandbox.execute(["python3", "-c", code], check=True).stdout


def test_a_commit_takes_links_for_what_they_are(sandbox: Sandbox) -> None:
    """What they point to on the machine is not looked at."""
    sandbox.execute("ln -s /etc/shadow /s; ln -s / /r; ln -s ../../../../etc /up; ln -s l /l")
    sandbox.commit("links")
    layer = layer_of("links")
    found = {name: os.readlink(layer / name) for name in ("s", "r", "up", "l")}
    assert found == {"s": "/etc/shadow", "r": "/", "up": "../../../../etc", "l": "l"}


def test_a_commit_takes_no_devices_pipes_or_sockets_for_files(sandbox: Sandbox) -> None:
    """A pipe that nobody writes to would be waited for."""
    python(
        sandbox,
        "import os, socket\n"
        "os.mkfifo('/fifo'); socket.socket(socket.AF_UNIX).bind('/socket')\n"
        "open('/file', 'w').write('x')\n",
    )
    assert sandbox.execute("mknod /device c 1 1").exit_code != 0
    assert sandbox.execute("mknod /whiteout c 0 0").exit_code != 0
    sandbox.commit("odd")
    kinds = {path.name: stat.S_IFMT(path.lstat().st_mode) for path in layer_of("odd").iterdir()}
    assert kinds["file"] == stat.S_IFREG
    assert kinds.get("fifo") in (None, stat.S_IFIFO)
    assert set(kinds.values()) <= {stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO}


def test_holes_take_no_room(sandbox: Sandbox) -> None:
    """A file can be said to be far larger than the sandbox's disk."""
    sandbox.execute("truncate -s 1T /hole; echo end >> /hole", check=True)
    assert sandbox.commit("holes").size_bytes < Store().get(images.BASE).size_bytes + (1 << 20)
    found = (layer_of("holes") / "hole").stat()
    assert found.st_size == (1 << 40) + 4
    assert found.st_blocks * 512 < 1 << 20
    with Sandbox.start("holes", backend=BACKEND) as started:
        assert started.execute("tail -c 4 /hole").stdout == "end\n"


def test_attributes_that_mean_something_to_overlayfs_are_not_taken(sandbox: Sandbox) -> None:
    """A sandbox that sets them must not be able to show itself more of the layers, or less."""
    python(
        sandbox,
        "import contextlib, os\n"
        "os.mkdir('/a')\n"
        "for space in ('user', 'trusted'):\n"
        "    for key, value in (('opaque', b'y'), ('redirect', b'/root'), ('metacopy', b'')):\n"
        "        with contextlib.suppress(OSError):\n"
        "            os.setxattr('/a', f'{space}.overlay.{key}', value)\n"
        "        with contextlib.suppress(OSError):\n"
        "            os.setxattr('/etc', f'{space}.overlay.{key}', value)\n",
    )
    sandbox.commit("attributes")
    for name in ("a", "etc"):
        found = os.listxattr(layer_of("attributes") / name)
        assert [one for one in found if one.endswith(("redirect", "metacopy"))] == []
    with Sandbox.start("attributes", backend=BACKEND) as started:
        assert "root:" in started.read_file("/etc/passwd")


def test_a_commit_of_a_tree_too_deep_is_refused(sandbox: Sandbox) -> None:
    """And the sandbox goes on, and the store is as it was."""
    python(
        sandbox,
        "import os\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')\n",
    )
    names = {image.name for image in Store().list()}
    with contextlib.suppress(ImageError):
        sandbox.commit("deep")
        Store().remove("deep")
    assert {image.name for image in Store().list()} == names
    assert sandbox.execute("echo fine").stdout == "fine\n"
    assert os.listdir(Store().root / "drafts") == []


def test_files_that_forbid_everything_are_committed(sandbox: Sandbox) -> None:
    sandbox.execute(
        "mkdir -p /closed/inner; echo secret > /closed/inner/file;"
        "chmod 000 /closed/inner/file /closed/inner /closed",
        check=True,
    )
    sandbox.commit("closed")
    with Sandbox.start("closed", backend=BACKEND) as started:
        assert started.execute("cat /closed/inner/file").stdout == "secret\n"
        shown = started.execute("stat -c %a /closed /closed/inner /closed/inner/file").stdout
        assert shown.split() == ["0", "0", "0"]
        started.execute("echo more >> /closed/inner/file", check=True)
        started.commit("closed-again")
    Store().remove("closed-again")
    Store().remove("closed")


CHURN = """
import itertools, os, threading
os.makedirs('/churn', exist_ok=True); os.chdir('/churn')
def change(number):
    for turn in itertools.count():
        name = f'{number}'
        try:
            kind = turn % 4
            if kind == 0:
                os.mkdir(name); open(f'{name}/inner', 'w').write('inside')
            elif kind == 1:
                os.rename(name, name + 'x'); os.symlink('/etc', name)
            elif kind == 2:
                os.unlink(name); os.mkfifo(name)
            else:
                os.unlink(name); os.unlink(name + 'x/inner'); os.rmdir(name + 'x')
        except OSError:
            pass
for number in range(3):
    threading.Thread(target=change, args=(number,)).start()
"""


def test_a_sandbox_that_changes_all_the_time_is_committed(sandbox: Sandbox) -> None:
    """A folder that becomes a link while it is looked at leads nowhere."""
    sandbox.write_file("/churn.py", CHURN)
    sandbox.create_session("churn").run("python3 /churn.py > /dev/null 2>&1 &")
    for _ in range(20):
        sandbox.commit("churn")
        layer = layer_of("churn")
        for path in layer.rglob("*"):
            if path.is_relative_to(layer / "churn") and not path.is_symlink() and path.is_file():
                assert path.name == "inner", path
    with Sandbox.start("churn", backend=BACKEND) as started:
        assert started.execute("echo fine").stdout == "fine\n"


def test_what_is_kept_belongs_to_root_alone(sandbox: Sandbox) -> None:
    """Programs with the set-user-id bit above all."""
    sandbox.execute("cp /bin/true /own; chmod 4755 /own", check=True)
    sandbox.commit("own")
    assert stat.S_IMODE((layer_of("own") / "own").stat().st_mode) == 0o4755
    for path in (Store().root, *Store().root.parents):
        if path.stat().st_mode & 0o077 == 0:
            return
    raise AssertionError("anybody can run it")


def test_an_image_that_is_replaced_meanwhile_is_the_old_or_the_new(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look-up of a name and the hold on its layers it may get others."""
    sandbox.execute("echo old > /version", check=True)
    sandbox.commit("replaced")
    hold = Store.hold
    meanwhile = [True]

    def replace_first(store: Store, layer: str) -> int:
        if meanwhile:
            meanwhile.clear()
            sandbox.execute("echo new > /version", check=True)
            sandbox.commit("replaced")
            with store.draft("another"):
                pass  # the old layer is swept now, which nobody holds
        return hold(store, layer)

    monkeypatch.setattr(Store, "hold", replace_first)
    with Sandbox.start("replaced", backend=BACKEND) as started:
        assert started.read_file("/version") == "new\n"
    assert not meanwhile
