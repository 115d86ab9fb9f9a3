"""Archives built by hand, as nobody's tools would write them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
OTHER = {"amd64": "arm64", "arm64": "amd64"}[ARCHITECTURE]


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    made.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(made, field, value)
    return made


Item = tuple[str, "bytes | None"] | tarfile.TarInfo


def tar(*items: Item) -> bytes:
    """A tar of files, given by name and content (None for a folder), and of other entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for item in items:
            if isinstance(item, tarfile.TarInfo):
                archive.addfile(item, io.BytesIO(bytes(item.size)))
            elif item[1] is None:
                archive.addfile(entry(item[0], tarfile.DIRTYPE))
            else:
                archive.addfile(entry(item[0], size=len(item[1])), io.BytesIO(item[1]))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def config(layers: Iterable[bytes], architecture: str, **settings: Any) -> bytes:
    value = {
        "architecture": architecture,
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(one)}" for one in layers]},
    }
    return json.dumps(value).encode()


def oci(
    *layers: bytes, architecture: str = ARCHITECTURE, compress: bool = True, **settings: Any
) -> dict[str, bytes]:
    """The files of an OCI layout."""
    blobs = [gzip.compress(one) if compress else one for one in layers]
    settings_blob = config(layers, architecture, **settings)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": describe(settings_blob),
            "layers": [describe(one) for one in blobs],
        }
    ).encode()
    index = {"schemaVersion": 2, "manifests": [describe(manifest)]}
    files = {f"blobs/sha256/{digest(one)}": one for one in (*blobs, settings_blob, manifest)}
    return {
        **files,
        "index.json": json.dumps(index).encode(),
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
    }


def describe(data: bytes) -> dict[str, Any]:
    return {"digest": f"sha256:{digest(data)}", "size": len(data)}


def docker_save(
    *layers: bytes, architecture: str = ARCHITECTURE, **settings: Any
) -> dict[str, bytes]:
    """The files of what ``docker save`` wrote before it knew of OCI layouts."""
    files = {f"{n:064x}/layer.tar": layer for n, layer in enumerate(layers)}
    manifest = [{"Config": "config.json", "RepoTags": ["x:latest"], "Layers": list(files)}]
    return {
        **files,
        "config.json": config(layers, architecture, **settings),
        "manifest.json": json.dumps(manifest).encode(),
    }


def write(path: Path, files: dict[str, bytes] | bytes) -> Path:
    """Write a tar of files, or what is one already."""
    path.write_bytes(files if isinstance(files, bytes) else tar(*files.items()))
    return path


def lay_out(path: Path, files: dict[str, bytes]) -> Path:
    """Write files as a directory."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def program(machine: int) -> bytes:
    """The beginning of an ELF program."""
    return (
        b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + machine.to_bytes(2, "little") + bytes(44)
    )
