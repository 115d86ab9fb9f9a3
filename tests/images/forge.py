"""Builds archives by hand: honest ones, and such as no honest program writes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def entry(name: str, content: bytes | None = None, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One entry of a tar: a file if it has content, else what ``fields`` say, a folder by default.

    What tarfile reads from the header goes there as it is, and ``pax`` into extended headers.
    """
    info = tarfile.TarInfo(name)
    info.pax_headers = fields.pop("pax", {})
    if content is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        info.size, info.mode = len(content), 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content or b""


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def tar(entries: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _config(layers: Sequence[bytes], architecture: str, settings: dict[str, Any]) -> bytes:
    return json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(one)}" for one in layers]},
        }
    ).encode()


def oci(
    layers: Sequence[bytes],
    *,
    architecture: str = "amd64",
    settings: dict[str, Any] | None = None,
    zipped: bool = True,
) -> dict[str, bytes]:
    """The files of an OCI layout of one image whose layers are these tars."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        blobs[f"blobs/sha256/{digest(data)}"] = data
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{digest(data)}", "size": len(data)}

    config = blob(_config(layers, architecture, settings or {}), "config.v1+json")
    packed = [gzip.compress(one, mtime=0) if zipped else one for one in layers]
    kind = "layer.v1.tar+gzip" if zipped else "layer.v1.tar"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [blob(one, kind) for one in packed],
    }
    index = {
        "schemaVersion": 2,
        "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")],
    }
    version = b'{"imageLayoutVersion": "1.0.0"}'
    return {"oci-layout": version, "index.json": json.dumps(index).encode(), **blobs}


def docker_save(layers: Sequence[bytes], *, architecture: str = "amd64") -> dict[str, bytes]:
    """The files that ``docker save`` of engine 20.10 writes."""
    config = _config(layers, architecture, {"Env": ["ORIGIN=docker"]})
    files = {f"{digest(config)}.json": config}
    names = []
    for number, one in enumerate(layers):
        names.append(f"layer{number}/layer.tar")
        files[names[-1]] = one
    manifest = [{"Config": f"{digest(config)}.json", "RepoTags": ["a:b"], "Layers": names}]
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def packed(files: dict[str, bytes]) -> bytes:
    return tar(entry(name, content) for name, content in files.items())


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
