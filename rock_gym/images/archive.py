"""Imports images from archives: a tar of a root directory, an OCI archive, or ``docker save``.

An archive is read where it lies and never unpacked as such: only its layers are, each below a
directory of its own. What it says of digests is checked.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import lzma
import os
import platform
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from rock_gym.errors import ImageError
from rock_gym.images.store import MAX_LAYERS, Config, Draft, Image, Store
from rock_gym.images.streams import CHUNK_BYTES, Headers, Limits, Tar, decompressed, opened_tar
from rock_gym.images.unpack import Unpacker

MAX_BYTES = 32 << 30
MAX_ENTRIES = 2_000_000
_MAX_JSON_BYTES = 8 << 20
_MAX_INDEX_DEPTH = 4

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


def architecture() -> str:
    """Return this machine's architecture as the OCI calls it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def import_image(
    source: str | os.PathLike[str],
    name: str,
    store: Store | None = None,
    *,
    max_bytes: int = MAX_BYTES,
) -> Image:
    """Import an archive under a name, in the place of the image that had the name before.

    Args:
        source: A tar of a root directory, an OCI archive or layout, or what ``docker save`` wrote;
            archives may be compressed by gzip, bzip2, xz or zstd.
        name: The name.
        store: Where to; by default the user's store.
        max_bytes: How much it may unpack to.

    Raises:
        SpecError: If the name is none.
        ImageError: If the archive is not there, broken, hostile, too large, or for another
            architecture, or the disk is full. Nothing of it is left then.
    """
    store = store if store is not None else Store()
    limits = Limits(max_bytes, MAX_ENTRIES)
    try:
        with store.draft(name) as draft, _opened(Path(source), draft, limits) as content:
            return _Import(draft, limits).run(content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ImageError(
                f"the disk is full: {store.root} has no room for {os.fspath(source)}; free some "
                "space, or let ROCK_GYM_DATA name a directory elsewhere"
            ) from error
        raise ImageError(f"{os.fspath(source)} cannot be imported: {error}") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ImageError(f"{os.fspath(source)} is cut off or broken: {error}") from error


class _Content(Protocol):
    """An archive or layout whose files can be opened in any order."""

    def names(self) -> frozenset[str]: ...

    def open(self, name: str) -> IO[bytes]: ...

    def whole(self) -> IO[bytes]: ...


class _Layout:
    """An OCI layout that is a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> frozenset[str]:
        return frozenset(os.listdir(self._root))

    def open(self, name: str) -> IO[bytes]:
        return open(self._root / name, "rb")

    def whole(self) -> IO[bytes]:
        raise ImageError(
            f"{self._root} is a directory without an OCI layout; start a sandbox of it as it is, "
            f"or import it by: tar -C {self._root} -c . | rock-gym image import - NAME"
        )


class _Archive:
    """A tar file; seekable, so not compressed."""

    def __init__(self, file: IO[bytes], limits: Limits) -> None:
        self._file = file
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        file.seek(0)
        with opened_tar(Headers(file), "r:") as found:
            for entry, _ in found:
                limits.take_entry()
                name = posixpath.normpath(entry.name).lstrip("/")
                if entry.isreg() and not entry.issparse():
                    self._files[name] = (entry.offset_data, entry.size)
                elif entry.issym():
                    path = posixpath.join(posixpath.dirname(name), entry.linkname)
                    self._links[name] = posixpath.normpath(path)

    def names(self) -> frozenset[str]:
        return frozenset(self._files)

    def open(self, name: str) -> IO[bytes]:
        name = posixpath.normpath(name)
        place = self._files.get(self._links.get(name, name))
        if place is None:
            raise ImageError(f"the archive is incomplete: it lacks {name!r}")
        return io.BufferedReader(_Part(self._file, *place), CHUNK_BYTES)

    def whole(self) -> IO[bytes]:
        self._file.seek(0)
        return self._file


class _Part(io.RawIOBase):
    """A stretch of a file."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._file = file
        self._offset = offset
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset)
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._offset += len(data)
        self._left -= len(data)
        return len(data)


@contextlib.contextmanager
def _opened(source: Path, draft: Draft, limits: Limits) -> Iterator[_Content]:
    if source.is_dir():
        yield _Layout(source)
        return
    with contextlib.ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(open(source, "rb"))
        plain = stack.enter_context(decompressed(file))
        if isinstance(plain, io.BufferedReader) and file.seekable():
            yield _Archive(file, limits)
            return
        # Its parts are wanted in another order than they come in.
        spool = stack.enter_context(open(draft.make() / "archive", "w+b"))
        while data := plain.read(CHUNK_BYTES):
            limits.take_bytes(len(data))
            spool.write(data)
        spool.seek(0)
        yield _Archive(spool, limits)


@dataclass(frozen=True)
class _LayerSource:
    """Where a layer is in an archive, and what it should be."""

    file: str
    digest: str | None  # of the file, in hexadecimal digits
    diff_id: str  # of the tar in it


class _Import:
    """One import."""

    def __init__(self, draft: Draft, limits: Limits) -> None:
        self._draft = draft
        self._limits = limits
        self._architecture = ""

    def run(self, content: _Content) -> Image:
        names = content.names()
        if "index.json" in names and "oci-layout" in names:
            config, layers = _read_oci(content)
        elif "manifest.json" in names and _is_docker(content):
            config, layers = _read_docker(content)
        else:
            self._unpack(content.whole(), None)
            _check_architecture(self._architecture)
            return self._draft.publish(Config(architecture=architecture()))
        if len(layers) > MAX_LAYERS:
            raise ImageError(f"the image has {len(layers)} layers, and at most {MAX_LAYERS} work")
        for layer in layers:
            self._add(content, layer)
        _check_architecture(config.architecture or self._architecture)
        return self._draft.publish(config)

    def _add(self, content: _Content, layer: _LayerSource) -> None:
        if self._draft.reuse(layer.diff_id):
            return
        with content.open(layer.file) as raw:
            checked = _Checked(raw)
            with decompressed(cast("IO[bytes]", checked)) as plain:
                self._unpack(plain, layer.diff_id)
                checked.drain()
            if layer.digest is not None and checked.digest() != layer.digest:
                raise ImageError(f"the archive is broken: {layer.file} has another digest")

    def _unpack(self, plain: IO[bytes], diff_id: str | None) -> None:
        path = self._draft.make()
        tar = Tar(plain, self._limits)
        unpacker = Unpacker(str(path), self._draft.layers, os.geteuid() == 0)
        unpacker.run(tar)
        if diff_id is None and not (tar.has_end and os.listdir(path)):
            raise ImageError("the archive is broken off, or empty")
        if diff_id is not None and tar.digest() != diff_id:
            raise ImageError("the archive is broken: a layer has another digest than it should")
        self._architecture = self._architecture or unpacker.architecture
        self._draft.add(tar.digest(), path, unpacker.size_bytes)


class _Checked(io.RawIOBase):
    """Takes the digest of what is read through it."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(len(buffer))
        self._digest.update(data)
        buffer[: len(data)] = data
        return len(data)

    def drain(self) -> None:
        """Read what the decompressor has left."""
        while self.read(CHUNK_BYTES):
            pass

    def digest(self) -> str:
        """Return the digest of all that was read, in hexadecimal digits."""
        return self._digest.hexdigest()


def _check_architecture(found: str) -> None:
    if found and found != architecture():
        raise ImageError(
            f"the image is for {found}, and this machine is {architecture()}; get the image for "
            f"{architecture()}"
        )


# What archives say of themselves


def _read_json(content: _Content, name: str, digest: str | None = None) -> Any:
    with content.open(name) as file:
        data = file.read(_MAX_JSON_BYTES + 1)
    if len(data) > _MAX_JSON_BYTES:
        raise ImageError(f"the archive is broken: {name} is too long")
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise ImageError(f"the archive is broken: {name} has another digest")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"the archive is broken: {name} is not JSON: {error}") from error


def _read_oci(content: _Content) -> tuple[Config, list[_LayerSource]]:
    try:
        manifest = _find_manifest(content, _read_json(content, "index.json"), 0)
        name, digest = _blob(manifest["config"])
        config = _read_json(content, name, digest)
        found = [_blob(layer) for layer in manifest["layers"]]
        diff_ids = _diff_ids(config, len(found))
        layers = [_LayerSource(*found[n], diff_ids[n]) for n in range(len(found))]
        return _config(config), layers
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ImageError(f"the archive is not an OCI image, or broken: {error!r}") from error


def _find_manifest(content: _Content, index: dict[str, Any], depth: int) -> dict[str, Any]:
    """Return the manifest for this machine, through indexes in indexes."""
    if depth > _MAX_INDEX_DEPTH:
        raise ImageError("the archive is broken: its indexes have no end")
    candidates = index["manifests"]
    fitting = [one for one in candidates if _is_ours(one.get("platform"))]
    if not fitting:
        kinds = sorted({str((one.get("platform") or {}).get("architecture")) for one in candidates})
        raise ImageError(
            f"the image is for {', '.join(kinds)}, and this machine is {architecture()}"
            if candidates
            else "the archive has no image in it"
        )
    chosen = fitting[0]
    name, digest = _blob(chosen)
    value: dict[str, Any] = _read_json(content, name, digest)
    if chosen.get("mediaType") in _INDEX_TYPES or "manifests" in value:
        return _find_manifest(content, value, depth + 1)
    return value


def _is_ours(found: dict[str, Any] | None) -> bool:
    return found is None or (
        found.get("architecture") == architecture() and found.get("os", "linux") == "linux"
    )


def _blob(descriptor: dict[str, Any]) -> tuple[str, str]:
    match = _DIGEST.fullmatch(descriptor["digest"])
    if match is None:
        raise ImageError(f"the archive is broken: not a digest: {descriptor['digest']!r}")
    return f"blobs/sha256/{match[1]}", match[1]


def _is_docker(content: _Content) -> bool:
    """Tell what ``docker save`` wrote from a root directory that has a file of that name."""
    try:
        value = _read_json(content, "manifest.json")
    except ImageError:
        return False
    return isinstance(value, list) and all(
        isinstance(one, dict) and "Layers" in one and "Config" in one for one in value
    )


def _read_docker(content: _Content) -> tuple[Config, list[_LayerSource]]:
    images = _read_json(content, "manifest.json")
    if len(images) != 1:
        raise ImageError(
            f"the archive holds {len(images)} images; save one alone, by: docker save NAME"
        )
    try:
        config = _read_json(content, str(images[0]["Config"]))
        files = [str(file) for file in images[0]["Layers"]]
        diff_ids = _diff_ids(config, len(files))
        layers = [_LayerSource(files[n], None, diff_ids[n]) for n in range(len(files))]
        return _config(config), layers
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ImageError(f"the archive is not of docker save, or broken: {error!r}") from error


def _diff_ids(config: dict[str, Any], count: int) -> list[str]:
    found = [_DIGEST.fullmatch(one) for one in config["rootfs"]["diff_ids"]]
    if len(found) != count or None in found:
        raise ImageError("the archive is broken: it does not say what its layers are")
    return [match[1] for match in found if match is not None]


def _config(value: dict[str, Any]) -> Config:
    """Read the settings, of which a stranger's may hold anything."""
    if value.get("os", "linux") != "linux":
        raise ImageError(f"the image is for {value['os']}, not for Linux")
    settings = value.get("config") or {}
    env = {}
    for line in settings.get("Env") or ():
        variable, equals, text = str(line).partition("=")
        if variable and equals and "\0" not in line:
            env[variable] = text
    workdir = settings.get("WorkingDir") or None
    if workdir is not None and (not str(workdir).startswith("/") or "\0" in str(workdir)):
        raise ImageError(f"the image's working directory is not a path: {workdir!r}")
    return Config(env, workdir, str(value.get("architecture", "")))
