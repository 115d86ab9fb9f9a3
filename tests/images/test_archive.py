"""What archives become, and what becomes of hostile ones: nothing."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from rock_gym.errors import ImageError, SpecError
from rock_gym.images import Image, Store
from rock_gym.images.archive import import_image
from rock_gym.images.unpack import opaque_attribute
from tests.images import archives as make

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def import_files(
    store: Store, tmp_path: Path, files: Any, name: str = "x", **options: Any
) -> Image:
    return import_image(make.write(tmp_path / "archive", files), name, store, **options)


def layer(store: Store, image: Image, number: int = -1) -> Path:
    return Path(store.layer_path(image.layers[number]))


def leftovers(store: Store) -> list[str]:
    return [
        f"{folder}/{name}"
        for folder in ("names", "layers", "drafts")
        for name in os.listdir(store.root / folder)
    ]


def test_a_tar_of_a_root_directory(store: Store, tmp_path: Path) -> None:
    """Modes, times, links and hard links are as they were."""
    data = make.tar(
        make.entry("./", tarfile.DIRTYPE, mode=0o751),
        make.entry("etc", tarfile.DIRTYPE, mode=0o500, mtime=1000),
        make.entry("etc/x", size=3, mode=0o4711, mtime=2000),
        make.entry("etc/hard", tarfile.LNKTYPE, linkname="etc/x"),
        make.entry("etc/soft", tarfile.SYMTYPE, linkname="/etc/x"),
        make.entry("etc/pipe", tarfile.FIFOTYPE, mode=0o622),
    )
    image = import_files(store, tmp_path, data)
    root = layer(store, image)
    assert stat.S_IMODE(root.stat().st_mode) == 0o751
    assert (stat.S_IMODE((root / "etc").stat().st_mode), (root / "etc").stat().st_mtime) == (
        0o500,
        1000,
    )
    found = (root / "etc/x").stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime) == (3, 0o4711, 2000)
    assert (root / "etc/hard").samefile(root / "etc/x")
    assert os.readlink(root / "etc/soft") == "/etc/x"
    assert stat.S_ISFIFO((root / "etc/pipe").stat().st_mode)
    assert image.size_bytes == 3
    assert image.name == "x:latest"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar(store: Store, tmp_path: Path, compress: Any) -> None:
    image = import_files(store, tmp_path, compress(make.tar(("a", b"text"))))
    assert (layer(store, image) / "a").read_bytes() == b"text"


def test_a_stream(store: Store, tmp_path: Path) -> None:
    """Which cannot be read twice."""
    code = (
        "import sys; from pathlib import Path; from rock_gym.images import Store\n"
        "from rock_gym.images.archive import import_image\n"
        "import_image('/dev/stdin', 'x', Store(Path(sys.argv[1])))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(store.root)], input=make.tar(("a", b"text")), check=True
    )
    assert (layer(store, store.get("x")) / "a").read_bytes() == b"text"


@ROOT_ONLY
def test_owners(store: Store, tmp_path: Path) -> None:
    """Root's store keeps them; one that no sandbox can have becomes nobody."""
    data = make.tar(
        make.entry("a", uid=33, gid=42),
        make.entry("b", uid=70000, gid=0),
        make.entry("l", tarfile.SYMTYPE, linkname="a", uid=7, gid=8),
    )
    root = layer(store, import_files(store, tmp_path, data))
    found = [(root / name).lstat() for name in ("a", "b", "l")]
    assert [(one.st_uid, one.st_gid) for one in found] == [(33, 42), (65534, 0), (7, 8)]


BOTTOM = make.tar(
    ("kept", b"1"),
    ("gone", b"2"),
    make.entry("dir", tarfile.DIRTYPE, mode=0o1777),
    ("dir/old", b"3"),
    ("again", None),
    ("again/old", b"4"),
)
TOP = make.tar(
    (".wh.gone", b""),
    ("dir/new", b"5"),  # without its folder
    (".wh.again", b""),
    ("again", None),
    ("again/new", b"6"),
    ("hidden/.wh..wh..opq", b""),
    (".wh..wh.plnk", b""),
)


@pytest.mark.parametrize("kind", ["oci", "oci-plain", "layout", "docker"])
def test_layers(store: Store, tmp_path: Path, kind: str) -> None:
    """Whiteouts become overlayfs's, and a folder that is only implied is as it is below."""
    settings = {"Env": ["A=b", "PATH=/bin"], "WorkingDir": "/srv"}
    if kind == "docker":
        image = import_files(store, tmp_path, make.docker_save(BOTTOM, TOP, **settings))
    elif kind == "layout":
        path = make.lay_out(tmp_path / "layout", make.oci(BOTTOM, TOP, **settings))
        image = import_image(path, "x", store)
    else:
        files = make.oci(BOTTOM, TOP, compress=kind == "oci", **settings)
        image = import_files(store, tmp_path, files)
    assert len(image.layers) == 2
    assert dict(image.config.env) == {"A": "b", "PATH": "/bin"}
    assert image.config.workdir == "/srv"
    top = layer(store, image)
    gone = (top / "gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert stat.S_IMODE((top / "dir").stat().st_mode) == 0o1777
    assert sorted(os.listdir(top / "again")) == ["new"]
    assert os.getxattr(top / "again", opaque_attribute()) == b"y"
    assert os.getxattr(top / "hidden", opaque_attribute()) == b"y"
    assert sorted(os.listdir(top)) == ["again", "dir", "gone", "hidden"]


def test_images_share_layers(store: Store, tmp_path: Path) -> None:
    first = import_files(store, tmp_path, make.oci(BOTTOM, TOP), "first")
    second = import_files(store, tmp_path, make.docker_save(BOTTOM, make.tar(("x", b""))), "second")
    assert first.layers[0] == second.layers[0]
    store.remove("first")
    assert (layer(store, second, 0) / "kept").exists()
    store.remove("second")
    assert leftovers(store) == []


def test_a_layer_means_what_lies_below_it(store: Store, tmp_path: Path) -> None:
    """The same whiteouts over other layers are another layer, as at the bottom they are nothing."""
    over = import_files(store, tmp_path, make.oci(BOTTOM, TOP), "over")
    alone = import_files(store, tmp_path, make.oci(TOP), "alone")
    assert over.layers[1] != alone.layers[0]
    assert not (layer(store, alone) / "gone").exists()


OUTSIDE = "rock-gym-escaped"
HOSTILE = {
    "goes up": make.tar((f"../../{OUTSIDE}", b"x")),
    "goes up in the middle": make.tar((f"a/../../../{OUTSIDE}", b"x")),
    "hard link out": make.tar(make.entry("h", tarfile.LNKTYPE, linkname="../../../etc/passwd")),
    "hard link to what is not there": make.tar(
        make.entry("h", tarfile.LNKTYPE, linkname="/etc/passwd")
    ),
    "hard link to a folder": make.tar(("d", None), make.entry("h", tarfile.LNKTYPE, linkname="d")),
    "below a file": make.tar(("f", b""), ("f/x", b"")),
    "below a link to nothing": make.tar(
        make.entry("l", tarfile.SYMTYPE, linkname="nowhere"), ("l/x", b"")
    ),
    "link loop": make.tar(make.entry("l", tarfile.SYMTYPE, linkname="l"), ("l/x", b"")),
    "whiteout of the parent": make.tar(("a/.wh...", b"")),
    "too deep": make.tar(("d/" * 300 + "f", b"")),
    "name too long": make.tar(("n" * 300, b"")),
    "cut off": make.tar(("a", bytes(5000)))[:3000],
    "no archive": b"not an archive at all" * 100,
    "empty": b"",
    "cut off gzip": gzip.compress(make.tar(("a", os.urandom(5000))))[:2000],
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_or_broken_layer(store: Store, tmp_path: Path, data: bytes) -> None:
    """It is refused, above another layer too, and nothing of it is left, here or anywhere."""
    before = sorted(os.listdir(tmp_path.parent))
    for files in (data, make.oci(BOTTOM, data)):
        with pytest.raises(ImageError):
            import_files(store, tmp_path, files)
    assert leftovers(store) == []
    assert sorted(os.listdir(tmp_path.parent)) == before
    assert not Path("/tmp", OUTSIDE).exists()


def test_no_link_leads_out(store: Store, tmp_path: Path) -> None:
    """An absolute link is meant inside: what comes after it lands below the image's own root."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "victim").write_text("mine")
    data = make.tar(
        (str(target).lstrip("/"), None),
        make.entry("l", tarfile.SYMTYPE, linkname=str(target)),
        ("l/victim", b"theirs"),
        (f"{target}/absolute", b"theirs"),
        make.entry("up", tarfile.SYMTYPE, linkname="../../../.."),
        (f"up/{OUTSIDE}", b"theirs"),
        make.entry("s", tarfile.SYMTYPE, linkname=f"{target}/victim"),
        ("s", b"replaced"),
        make.entry("h", tarfile.LNKTYPE, linkname=f"{target}/victim"),
    )
    root = layer(store, import_files(store, tmp_path, data))
    assert (target / "victim").read_text() == "mine"
    assert os.listdir(target) == ["victim"]
    inside = root / str(target).lstrip("/")
    assert sorted(os.listdir(inside)) == ["absolute", "victim"]
    assert (root / OUTSIDE).exists()
    assert not Path("/", OUTSIDE).exists()
    assert (root / "s").read_bytes() == b"replaced"
    assert (root / "h").read_bytes() == b"theirs"


def test_devices_and_attributes_are_left_out(store: Store, tmp_path: Path) -> None:
    """A whiteout or redirection can not be smuggled in."""
    data = make.tar(
        make.entry("sda", tarfile.BLKTYPE, devmajor=8, devminor=0),
        make.entry("mem", tarfile.CHRTYPE, devmajor=1, devminor=1),
        make.entry("zero", tarfile.CHRTYPE, devmajor=0, devminor=0),
        make.entry(
            "d",
            tarfile.DIRTYPE,
            pax_headers={
                f"SCHILY.xattr.{kind}.overlay.{name}": "/etc"
                for kind in ("user", "trusted")
                for name in ("redirect", "opaque", "metacopy")
            },
        ),
    )
    root = layer(store, import_files(store, tmp_path, data))
    assert os.listdir(root) == ["d"]
    assert os.listxattr(root / "d") == []


def bomb_of_zeros() -> bytes:
    return gzip.compress(make.tar(make.entry("zeros", size=64 << 20)))


def sparse_bomb() -> bytes:
    """A file of a tebibyte that takes a block."""
    header = make.entry("hole", tarfile.GNUTYPE_SPARSE, size=0)
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"%011o\0" % (1 << 32)
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


def header_bomb() -> bytes:
    """A name of a gigabyte."""
    header = make.entry("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=1 << 30)
    data = io.BytesIO()
    with gzip.open(data, "wb", 1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            file.write(b"a" * (1 << 20))
    return data.getvalue()


def sparse_map_bomb() -> bytes:
    """A map of holes that has no end, in the newest of GNU's formats."""
    numbers = b"99999999\n" + b"0\n" * (8 << 20)
    item = make.entry("m", size=len(numbers))
    item.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "m"}
    return gzip.compress(item.tobuf(tarfile.PAX_FORMAT) + numbers, 1)


BOMBS = [bomb_of_zeros, sparse_bomb, header_bomb, sparse_map_bomb]


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(store: Store, tmp_path: Path, bomb: Any) -> None:
    """Neither the disk nor the memory goes beyond the limit, and the error says what to do."""
    data = bomb()
    for files in (data, make.oci(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)):
        with pytest.raises(ImageError):
            import_files(store, tmp_path, files, max_bytes=32 << 20)
        assert leftovers(store) == []


def test_too_many_files(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rock_gym.images.archive.MAX_ENTRIES", 10)
    with pytest.raises(ImageError, match="more than 10 files"):
        import_files(store, tmp_path, make.tar(*((f"f{n}", b"") for n in range(20))))


@pytest.mark.parametrize("kind", ["oci", "docker", "plain"])
def test_another_architecture(store: Store, tmp_path: Path, kind: str) -> None:
    machine = {"amd64": 62, "arm64": 183}[make.OTHER]
    root = make.tar(("usr/bin/sh", make.program(machine)))
    files = {
        "oci": make.oci(root, architecture=make.OTHER),
        "docker": make.docker_save(root, architecture=make.OTHER),
        "plain": root,
    }[kind]
    with pytest.raises(ImageError, match=f"{make.OTHER}.*{make.ARCHITECTURE}"):
        import_files(store, tmp_path, files)
    assert leftovers(store) == []


def test_an_index_of_several_platforms(store: Store, tmp_path: Path) -> None:
    """This machine's is taken, through an index in an index."""
    ours, theirs = (
        make.oci(make.tar(("ours", b""))),
        make.oci(make.tar(("theirs", b"")), architecture=make.OTHER),
    )
    described = []
    for files, architecture in ((theirs, make.OTHER), (ours, make.ARCHITECTURE)):
        manifest = json.loads(files["index.json"])["manifests"][0]
        described.append({**manifest, "platform": {"os": "linux", "architecture": architecture}})
    inner = json.dumps({"schemaVersion": 2, "manifests": described}).encode()
    outer = {"manifests": [make.describe(inner)]}
    files = {**theirs, **ours, f"blobs/sha256/{make.digest(inner)}": inner}
    files["index.json"] = json.dumps(outer).encode()
    assert os.listdir(layer(store, import_files(store, tmp_path, files))) == ["ours"]


def damaged(files: dict[str, bytes], part: str) -> dict[str, bytes]:
    for name, data in files.items():
        if part in data.decode("latin-1"):
            return {**files, name: data.replace(part.encode(), part.swapcase().encode())}
    raise AssertionError(part)


DAMAGED: dict[str, dict[str, bytes]] = {
    "a layer": damaged(make.oci(make.tar(("a", b"content")), compress=False), "content"),
    "a manifest": damaged(make.oci(BOTTOM), "schemaVersion"),
    "a layer of docker's": damaged(make.docker_save(make.tar(("a", b"content"))), "content"),
    "a missing blob": dict(list(make.oci(BOTTOM).items())[1:]),
    "an empty index": {**make.oci(BOTTOM), "index.json": b'{"manifests": []}'},
    "an index of nonsense": {**make.oci(BOTTOM), "index.json": b"[[[[1]]]]"},
    "deep nonsense": {**make.oci(BOTTOM), "index.json": b"[" * 200_000},
    "a blob elsewhere": {
        **make.oci(BOTTOM),
        "index.json": b'{"manifests": [{"digest": "sha256:../../../etc/passwd"}]}',
    },
    "docker's of nothing": {"manifest.json": b'[{"Config": "c", "Layers": []}]'},
    "docker's of elsewhere": {"manifest.json": b'[{"Config": "../../etc/passwd", "Layers": []}]'},
}


@pytest.mark.parametrize("files", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_image(store: Store, tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(ImageError):
        import_files(store, tmp_path, files)
    assert leftovers(store) == []


def test_an_index_without_end(store: Store, tmp_path: Path) -> None:
    files = make.oci(BOTTOM)
    for _ in range(10):
        inner = files["index.json"]
        files[f"blobs/sha256/{make.digest(inner)}"] = inner
        files["index.json"] = json.dumps({"manifests": [make.describe(inner)]}).encode()
    with pytest.raises(ImageError, match="no end"):
        import_files(store, tmp_path, files)


FULL = """
import os, sys
from pathlib import Path
from rock_gym.errors import ImageError
from rock_gym.images import Store
from rock_gym.images.archive import import_image
store = Store(Path(sys.argv[1], "store"))
try:
    import_image(sys.argv[2], "x", store)
except ImageError as error:
    print(error)
print([os.listdir(store.root / folder) for folder in ("names", "layers", "drafts")])
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """One of a megabyte, in a mount namespace of its own."""
    archive = make.write(tmp_path / "archive", make.tar(("a", b"x"), ("b", os.urandom(4 << 20))))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size=1m none "$1" && exec "$3" -c "$4" "$1" "$2"'
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"),
            *(str(disk), str(archive), sys.executable, FULL),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said, left = done.stdout.splitlines()
    assert "the disk is full" in said
    assert "ROCK_GYM_DATA" in said
    assert left == "[[], [], []]"


def test_what_is_not_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be imported"):
        import_image(tmp_path / "nothing", "x", store)


def test_a_root_directory_is_no_archive(store: Store, tmp_path: Path) -> None:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    with pytest.raises(ImageError, match="tar -C"):
        import_image(tmp_path / "root", "x", store)


@pytest.mark.parametrize("name", ["host", "", "a b", "../x", "/x", "a//b", ".x", "x:", "x" * 300])
def test_names_that_are_none(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError):
        import_files(store, tmp_path, make.tar(("a", b"")), name)
