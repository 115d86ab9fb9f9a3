"""Pulls images from registries, by the ``skopeo`` program where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from rock_gym.errors import ImageError
from rock_gym.images.archive import MAX_BYTES, architecture, import_image
from rock_gym.images.store import Image, Store

_TRANSPORTS = ("docker://", "oci:", "oci-archive:", "docker-archive:", "dir:")


def pull_image(
    reference: str,
    name: str | None = None,
    store: Store | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    tls_verify: bool = True,
) -> Image:
    """Pull an image from a registry and import it.

    Args:
        reference: Such as ``debian:12`` or ``registry.example:5000/team/image:tag``; or in
            skopeo's terms, with a transport such as ``docker://`` or ``oci:`` before it.
        name: The name that it gets; by default the reference.
        store: Where to; by default the user's store.
        max_bytes: How much it may unpack to.
        tls_verify: Whether the registry has to prove who it is.

    Raises:
        SpecError: If the name is none.
        ImageError: If skopeo is not installed or failed, or as ``import_image``.
    """
    program = shutil.which("skopeo")
    if program is None:
        raise ImageError(
            "pulling images needs skopeo, which is not installed; install it with: "
            "apt-get install skopeo, or import an archive with: rock-gym image import"
        )
    if name is None:
        name = reference.removeprefix("docker://")
    source = reference if reference.startswith(_TRANSPORTS) else f"docker://{reference}"
    store = store if store is not None else Store()
    with store.scratch() as directory, tempfile.TemporaryFile() as errors:
        layout = Path(directory, "layout")
        command = [program, "--override-os", "linux", "--override-arch", architecture(), "copy"]
        if source.startswith("docker://"):
            command += [f"--src-tls-verify={str(tls_verify).lower()}"]
        # Compressed layers stay so, and others need not be.
        command += ["--quiet", "--dest-oci-accept-uncompressed-layers"]
        done = subprocess.run(
            [*command, "--", source, f"oci:{layout}:image"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            check=False,
        )
        if done.returncode != 0:
            errors.seek(0)
            words = errors.read(4096).decode("utf-8", "replace").strip()
            raise ImageError(f"{reference} cannot be pulled: {words}", output=words)
        return import_image(layout, name, store, max_bytes=max_bytes)
