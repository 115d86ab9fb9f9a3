"""What a stranger's archive may try, and must not get: anything outside, or a store in disorder."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rock_gym.errors import ImageError
from rock_gym.images.archive import import_image
from rock_gym.images.store import Store
from tests.images.archives import oci, write
from tests.images.forge import entry, hard_link, link, tar

FINE = entry("etc/fine", b"fine\n")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What no archive may touch."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_text("secret\n")
    return place


def tar_of(files: dict[str, bytes]) -> bytes:
    return tar(entry(name, content) for name, content in files.items())


def snapshot(place: Path) -> dict[str, tuple[int, int, str]]:
    found = {}
    for path in (place, *place.rglob("*")):
        status = path.lstat()
        text = path.read_text() if path.is_file() else ""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, text)
    return found


def tree(store: Store, name: str = "image") -> Path:
    """The only layer of an image."""
    (layer,) = store.get(name).layers
    return Path(store.layer_path(layer))


def is_pristine(store: Store) -> bool:
    """Whether nothing is left of what was tried."""
    return not store.list() and not any(
        os.listdir(store.root / folder) for folder in ("layers", "drafts", "names")
    )


def attempt(store: Store, path: Path, data: bytes) -> ImageError | None:
    """Import, and return the refusal; anything but that is a failure."""
    try:
        import_image(write(path, data), "image", store)
    except ImageError as error:
        return error
    return None


WAYS_OUT: dict[str, Callable[[str], list[tuple[tarfile.TarInfo, bytes]]]] = {
    "dots": lambda out: [entry(f"../../../../../../../..{out}/made", b"x")],
    "dots within": lambda out: [entry(f"a/../../../../../../../../..{out}/made", b"x")],
    "absolute": lambda out: [entry(f"{out}/secret", b"x")],
    "link to a folder": lambda out: [link("a", out), entry("a/secret", b"x")],
    "relative link": lambda out: [link("a", f"../../../../../../../..{out}"), entry("a/s", b"x")],
    "chain of links": lambda out: [
        link("a", "b"),
        link("b", "c/d"),
        link("c", "/"),
        link("d", out),
        entry("a/secret", b"x"),
    ],
    "link to a file": lambda out: [link("a", f"{out}/secret"), entry("a", b"x")],
    "folder over a link": lambda out: [link("a", out), entry("a"), entry("a/secret", b"x")],
    "mode of a folder": lambda out: [link("a", out), entry("a", mode=0o777, mtime=1)],
    "folder becomes a link": lambda out: [entry("a"), link("a", out), entry("a/secret", b"x")],
    "mode afterwards": lambda out: [entry("a/b"), link("a", out), entry("c", b"")],
    "hard link": lambda out: [hard_link("a", f"{out}/secret"), entry("a", b"x")],
    "hard link by dots": lambda out: [hard_link("a", f"../../../../../../..{out}/secret")],
    "hard link by a link": lambda out: [
        link("l", out),
        hard_link("a", "l/secret"),
        entry("a", b"x", mode=0o777),
    ],
    "hard link to a link": lambda out: [
        link("l", f"{out}/secret"),
        hard_link("a", "l"),
        entry("a", b"x"),
    ],
    "long name": lambda out: [entry("a", b"x", pax={"path": f"../../../../../../..{out}/made"})],
    "long link": lambda out: [
        entry("a", type=tarfile.SYMTYPE, linkname="x", pax={"linkpath": out}),
        entry("a/secret", b"x"),
    ],
    "the descriptors of a process": lambda out: [
        link("a", "/proc/self/cwd"),
        entry("a/made", b"x"),
    ],
    "whiteout by dots": lambda out: [entry(f"../../../../../../..{out}/.wh.secret", b"")],
    "whiteout of dots": lambda _: [entry(".wh...", b"")],
    "whiteout by a link": lambda out: [link("a", out), entry("a/.wh.secret", b"")],
    "opaque by a link": lambda out: [link("a", out), entry("a/.wh..wh..opq", b"")],
}


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("kind", ["rootfs", "layer"])
def test_nothing_outside_is_touched(
    store: Store, outside: Path, tmp_path: Path, way: str, kind: str
) -> None:
    """The archive is refused, or its paths are taken to begin at the image's root."""
    before = snapshot(outside)
    data = tar([FINE, *WAYS_OUT[way](str(outside))])
    if kind == "layer":
        data = tar_of(oci(tar([FINE]), data))
    refused = attempt(store, tmp_path / "archive", data)
    assert snapshot(outside) == before
    assert not Path("made").exists()
    if refused is None:
        store.remove("image")
    assert is_pristine(store)


BROKEN: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "a name with a zero byte": [entry("a", b"x", pax={"path": "a\0b"})],
    "a link with a zero byte": [entry("a", type=tarfile.SYMTYPE, pax={"linkpath": "a\0b"})],
    "a hard link with a zero byte": [entry("a", type=tarfile.LNKTYPE, pax={"linkpath": "a\0b"})],
    "a hard link to nothing": [hard_link("a", "nowhere")],
    "a hard link to itself": [hard_link("a", "a")],
    "a hard link to the root": [hard_link("a", "")],
    "a hard link to a folder": [entry("b"), hard_link("a", "b")],
    "a file as a folder": [entry("a", b"x"), entry("a/b", b"x")],
    "a link in a ring as a folder": [link("a", "b"), link("b", "a"), entry("a/c", b"x")],
    "a name that is too long": [entry("a" * 300, b"x")],
    "a path that is too long": [entry("/".join(["a" * 200] * 100), b"x")],
    "a path that is too deep": [entry("/".join(["a"] * 2000), b"x")],
}
ODD: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "a time that is no number": [entry("a", b"x", pax={"mtime": "nan"})],
    "a time without end": [entry("a", b"x", pax={"mtime": "inf"})],
    "a time before all": [entry("a", b"x", pax={"mtime": "-1e300"})],
    "an owner out of range": [entry("a", b"x", uid=2**40, gid=2**50)],
    "an owner below zero": [entry("a", b"x", pax={"uid": "-7", "gid": "-1"})],
    "a name that is no text": [entry("a\udcff", b"x")],
    "names that only case tells apart": [entry("a", b"x"), entry("A", b"x")],
    "the same name again": [entry("a", b"1"), entry("a"), link("a", "b"), entry("a", b"2")],
    "doubled slashes": [entry(".//a//./b", b"x")],
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("kind", ["rootfs", "layer"])
def test_what_cannot_be_unpacked_is_refused(
    store: Store, tmp_path: Path, what: str, kind: str
) -> None:
    data = tar([FINE, *BROKEN[what]])
    if kind == "layer":
        data = tar_of(oci(tar([FINE]), data))
    assert attempt(store, tmp_path / "archive", data) is not None
    assert is_pristine(store)


@pytest.mark.parametrize("what", ODD)
def test_oddities_are_survived(store: Store, tmp_path: Path, what: str) -> None:
    """Refused or not, what comes of it can be removed."""
    if attempt(store, tmp_path / "archive", tar([FINE, *ODD[what]])) is None:
        assert (tree(store) / "etc" / "fine").read_bytes() == b"fine\n"
        store.remove("image")
    assert is_pristine(store)


def with_size(number: int) -> bytes:
    """A tar whose only file says that it is so long, by an extended header."""
    return tar([entry("a", b"x" * 600, pax={"size": str(number)}), FINE])


@pytest.mark.timeout(30)
@pytest.mark.parametrize("size", [-1, -512, -1024, -(2**62), 2**62, 2**63, 10**30])
def test_sizes_that_cannot_be_are_refused(store: Store, tmp_path: Path, size: int) -> None:
    """A negative one sends some readers back to where they were, for ever."""
    assert attempt(store, tmp_path / "archive", with_size(size)) is not None
    assert is_pristine(store)


@pytest.mark.timeout(30)
def test_a_negative_size_in_a_header_is_refused(store: Store, tmp_path: Path) -> None:
    """The older form of numbers has a sign, too."""
    data = bytearray(tar([entry("a", b"x" * 600)]))
    data[124:136] = b"\xff" * 12
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert attempt(store, tmp_path / "archive", bytes(data)) is not None
    assert is_pristine(store)


def header(kind: bytes, size: bytes) -> bytes:
    """One header block of any kind and size."""
    data = bytearray(512)
    data[0:1], data[100:108], data[124:136] = b"a", b"0000644\0", size
    data[156:157], data[257:265] = kind, b"ustar\x0000"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"S", b"0", b"5"])
@pytest.mark.parametrize("size", [b"\xff" * 12, b"\xff" * 10 + b"\xfd\xff", b"\x80" + b"\xff" * 11])
def test_headers_of_senseless_sizes_are_survived(
    store: Store, tmp_path: Path, kind: bytes, size: bytes
) -> None:
    data = tar([FINE]).rstrip(b"\0").ljust(1024, b"\0") + header(kind, size) + tar([FINE])
    if attempt(store, tmp_path / "archive", data) is None:
        store.remove("image")
    assert is_pristine(store)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_headers_of_headers_are_refused(store: Store, tmp_path: Path, kind: bytes) -> None:
    """Each takes a level of recursion in the reader."""
    inner = (b"11 path=aa\n" if kind == b"x" else b"aa\0").ljust(512, b"\0")
    one = header(kind, b"00000000013\0" if kind == b"x" else b"00000000003\0") + inner
    assert attempt(store, tmp_path / "archive", one * 3000 + tar([FINE])) is not None
    assert is_pristine(store)


@pytest.mark.timeout(60)
def test_a_tree_deeper_than_paths_can_be_is_no_trap(store: Store, tmp_path: Path) -> None:
    """Links make any depth reachable by short paths, and all of it must be removable."""
    entries = []
    for number in range(7):
        above = f"l{number - 1}/" if number else ""
        inner = "/".join(["d"] * 200)
        entries += [entry(f"{above}{inner}"), link(f"l{number}", f"{above}{inner}")]
    if attempt(store, tmp_path / "archive", tar([FINE, *entries])) is None:
        store.remove("image")
    assert is_pristine(store)


def test_a_header_that_is_none_is_refused(store: Store, tmp_path: Path) -> None:
    """Rather than taken for the end: half an image would look like a whole one."""
    data = bytearray(tar([FINE, entry("a", b"x"), entry("b", b"x")]))
    data[1024 + 10] ^= 1
    assert attempt(store, tmp_path / "archive", bytes(data)) is not None
    assert is_pristine(store)


@pytest.mark.parametrize("cut", [1, 511, 513, 1024, 1500, -700, -1])
@pytest.mark.parametrize("kind", ["rootfs", "gzip", "oci"])
def test_a_broken_off_archive_is_refused(store: Store, tmp_path: Path, kind: str, cut: int) -> None:
    whole = tar([FINE, entry("big", os.urandom(4096))])
    if kind == "gzip":
        whole = gzip.compress(whole)
    elif kind == "oci":
        whole = tar_of(oci(whole))
    # What ends a tar is two empty blocks, which many readers can do without.
    end = whole.rstrip(b"\0") if kind != "gzip" else whole
    assert attempt(store, tmp_path / "archive", end[:cut]) is not None
    assert is_pristine(store)


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 5000, bytes(512), b"\x1f\x8b" + b"x" * 999])
def test_what_is_no_archive_is_refused(store: Store, tmp_path: Path, data: bytes) -> None:
    assert attempt(store, tmp_path / "archive", data) is not None
    assert is_pristine(store)


def test_a_folder_that_is_replaced_leaves_no_trace(store: Store, tmp_path: Path) -> None:
    """What was known of the folders in it is not applied to others of these names."""
    data = tar(
        [
            entry("a/b/c", mode=0o700),
            entry("a/b", mode=0o711),
            entry("z/b/c", mode=0o755),
            entry("a", b""),
            link("a", "z"),
            FINE,
        ]
    )
    assert attempt(store, tmp_path / "archive", data) is None
    assert stat.S_IMODE((tree(store) / "z" / "b" / "c").stat().st_mode) == 0o755
    assert stat.S_IMODE((tree(store) / "z" / "b").stat().st_mode) == 0o755
