"""Exports an image as an OCI archive that older engines' ``docker load`` takes, too.

That is an archive with both descriptions of the same blobs: an OCI layout, and the manifest that
``docker save`` writes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
import tarfile
import time
from pathlib import Path
from typing import IO, Any, cast

from rock_gym.errors import ImageError
from rock_gym.images import trees
from rock_gym.images.archive import architecture
from rock_gym.images.store import Image, Store
from rock_gym.images.unpack import OPAQUE, WHITEOUT, opaque_attribute

_BLOBS = "blobs/sha256"
_TYPE = "application/vnd.oci.image"
_BLOCK_BYTES = 512
_MAX_HOLE_BYTES = 1 << 30


def export_image(name: str, target: str | os.PathLike[str], store: Store | None = None) -> Image:
    """Write an image to a file, as an uncompressed OCI archive. It appears whole, or not at all.

    Args:
        name: The image.
        target: The file, which is replaced.
        store: Where the image is; by default the user's store.

    Raises:
        ImageNotFound: If there is no such image.
        ImageError: If it could not be written.
    """
    store = store if store is not None else Store()
    path = Path(target)
    image = store.get(name)
    held: list[int] = []
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        held += [store.hold(layer) for layer in image.layers]
        with store.reading_closed(), open(temporary, "xb") as file:
            _Export(file, image).run([store.layer_path(layer) for layer in image.layers])
        os.replace(temporary, path)
    except OSError as error:
        raise ImageError(f"{name!r} cannot be exported to {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
        for fd in held:
            os.close(fd)
    return image


class _Export:
    """One export."""

    def __init__(self, file: IO[bytes], image: Image) -> None:
        self._file = file
        self._image = image

    def run(self, layers: list[str]) -> None:
        with tarfile.open(fileobj=self._file, mode="w:") as archive:
            written = [self._add_layer(archive, path) for path in layers]
            config, config_digest = self._add_json(archive, self._config(written))
            manifest, _ = self._add_json(archive, self._manifest(config, written))
            manifest["annotations"] = {
                "io.containerd.image.name": self._image.name,
                "org.opencontainers.image.ref.name": self._image.name.rpartition(":")[2],
            }
            index = {"schemaVersion": 2, "mediaType": f"{_TYPE}.index.v1+json"}
            manifest["mediaType"] = f"{_TYPE}.manifest.v1+json"
            _add(archive, "index.json", _encode({**index, "manifests": [manifest]}))
            _add(archive, "oci-layout", _encode({"imageLayoutVersion": "1.0.0"}))
            paths = [f"{_BLOBS}/{layer['digest'].partition(':')[2]}" for layer in written]
            docker = {
                "Config": f"{_BLOBS}/{config_digest}",
                "RepoTags": [self._image.name],
                "Layers": paths,
            }
            _add(archive, "manifest.json", _encode([docker]))

    def _add_layer(self, archive: tarfile.TarFile, path: str) -> dict[str, Any]:
        """Write a layer's tar straight into the archive; its name and size are filled in after."""
        header_at = self._file.tell()
        self._file.write(bytes(tarfile.BLOCKSIZE))
        begin = self._file.tell()
        hashing = _Hashing(self._file)
        with tarfile.open(fileobj=cast("IO[bytes]", hashing), mode="w|") as layer:
            _write_layer(layer, path)
        size = self._file.tell() - begin
        digest = hashing.digest()
        header = _entry(f"{_BLOBS}/{digest}", size).tobuf(tarfile.GNU_FORMAT)
        if len(header) != tarfile.BLOCKSIZE:
            raise ImageError(f"a layer of {size} bytes is too large to be exported")
        self._file.seek(header_at)
        self._file.write(header)
        self._file.seek(0, os.SEEK_END)
        self._file.write(bytes(-size % tarfile.BLOCKSIZE))
        archive.offset = self._file.tell()
        media = f"{_TYPE}.layer.v1.tar"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": size}

    def _add_json(self, archive: tarfile.TarFile, value: Any) -> tuple[dict[str, Any], str]:
        data = _encode(value)
        digest = hashlib.sha256(data).hexdigest()
        _add(archive, f"{_BLOBS}/{digest}", data)
        return {"digest": f"sha256:{digest}", "size": len(data)}, digest

    def _config(self, layers: list[dict[str, Any]]) -> dict[str, Any]:
        config = self._image.config
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._image.created_s))
        return {
            "created": moment,
            "architecture": config.architecture or architecture(),
            "os": "linux",
            "config": {
                "Env": [f"{name}={value}" for name, value in config.env.items()],
                "WorkingDir": config.workdir or "",
                "Cmd": ["/bin/sh"],
            },
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
            "history": [{"created": moment, "created_by": "rock-gym"} for _ in layers],
        }

    def _manifest(self, config: dict[str, Any], layers: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "mediaType": f"{_TYPE}.manifest.v1+json",
            "config": {"mediaType": f"{_TYPE}.config.v1+json", **config},
            "layers": layers,
        }


class _Hashing:
    """Takes the digest of what is written through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._file.write(data)

    def digest(self) -> str:
        return self._digest.hexdigest()


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(_entry(name, len(data)), io.BytesIO(data))


# Layers


def _write_layer(tar: tarfile.TarFile, path: str) -> None:
    root = trees.open_directory(path)
    try:
        _Writer(tar).folder(root, "", os.fstat(root))
    finally:
        os.close(root)


class _Writer:
    """Writes a layer's directory as a tar stream, with the whiteouts of the OCI."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._linked: dict[int, str] = {}
        self._owners = os.geteuid() == 0
        self._opaque = opaque_attribute()

    def folder(self, fd: int, path: str, found: os.stat_result) -> None:
        self._add(path or ".", found, tarfile.DIRTYPE)
        prefix = f"{path}/" if path else ""
        if path and self._opaque in os.listxattr(fd):
            self._add(prefix + OPAQUE, None, tarfile.REGTYPE)
        for name in sorted(os.listdir(fd)):
            self._one(fd, name, prefix + name)

    def _one(self, parent: int, name: str, path: str) -> None:
        if name.startswith(WHITEOUT):
            raise ImageError(f"{path!r} cannot be exported: in archives such a name removes a file")
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        kind = found.st_mode
        if stat.S_ISDIR(kind):
            self._inner(parent, name, path, found)
        elif stat.S_ISCHR(kind):
            folder, _, name = path.rpartition("/")
            self._add(
                f"{folder}/{WHITEOUT}{name}" if folder else WHITEOUT + name, None, tarfile.REGTYPE
            )
        elif stat.S_ISLNK(kind):
            self._add(path, found, tarfile.SYMTYPE, os.readlink(name, dir_fd=parent))
        elif stat.S_ISFIFO(kind):
            self._add(path, found, tarfile.FIFOTYPE)
        elif stat.S_ISREG(kind):
            if found.st_nlink > 1 and found.st_ino in self._linked:
                self._add(path, found, tarfile.LNKTYPE, self._linked[found.st_ino])
                return
            self._linked[found.st_ino] = path
            fd = trees.open_file(name, parent)
            try:
                self._file(fd, path, found)
            finally:
                os.close(fd)

    def _inner(self, parent: int, name: str, path: str, found: os.stat_result) -> None:
        fd = trees.open_directory(name, parent)
        # Without the right to enter it, an ordinary user could not open what is in it.
        closed = not self._owners and found.st_mode & stat.S_IRWXU != stat.S_IRWXU
        try:
            if closed:
                os.fchmod(fd, stat.S_IRWXU)
            self.folder(fd, path, found)
        finally:
            if closed:
                os.fchmod(fd, stat.S_IMODE(found.st_mode))
            os.close(fd)

    def _file(self, fd: int, path: str, found: os.stat_result) -> None:
        if _hole_bytes(fd, found) > _MAX_HOLE_BYTES:
            raise ImageError(
                f"{path!r} cannot be exported: it is a hole of {found.st_size} bytes, which an "
                "archive would be filled with"
            )
        with open(fd, "rb", closefd=False) as content:
            self._add(path, found, tarfile.REGTYPE, content=content)

    def _add(
        self,
        path: str,
        found: os.stat_result | None,
        kind: bytes,
        target: str = "",
        content: IO[bytes] | None = None,
    ) -> None:
        entry = tarfile.TarInfo(path)
        entry.type, entry.linkname, entry.mode = kind, target, 0o644
        if found is not None:
            entry.mode, entry.mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
            if self._owners:
                entry.uid, entry.gid = found.st_uid, found.st_gid
        if content is not None and found is not None:
            entry.size = found.st_size
        self._tar.addfile(entry, content)


def _hole_bytes(fd: int, found: os.stat_result) -> int:
    """Return how much of a file is nowhere: a sandbox can make one larger than any disk."""
    if found.st_blocks * _BLOCK_BYTES >= found.st_size:
        return 0
    data = end = 0
    try:
        while end < found.st_size:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
            data += end - start
    except OSError as error:
        if error.errno != errno.ENXIO:  # nothing but a hole is left
            raise
    finally:
        os.lseek(fd, 0, os.SEEK_SET)
    return found.st_size - data
