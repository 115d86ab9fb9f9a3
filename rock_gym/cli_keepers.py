"""Who keeps images, for ``rock-gym image``: the store of embedded sandboxes, and an engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rock_gym.backends.docker.images import Images
    from rock_gym.images import Image

__all__ = ["Keeper", "Kept", "keeper"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Kept:
    """An image that is kept.

    Attributes:
        backend: By whom.
        name: Its name, with the tag.
        size_bytes: What its files hold.
        layers: How many layers it has; None where that is not known.
        created_s: When it was made, in seconds since the epoch; None where that is not known.
    """

    backend: str
    name: str
    size_bytes: int
    layers: int | None = None
    created_s: float | None = None


class Keeper(Protocol):
    """Keeps images. The methods raise what ``rock_gym.errors`` has."""

    def list(self) -> list[Kept]:
        """Return those with a name."""

    def take(self, source: str, name: str, max_bytes: int) -> Kept:
        """Import an archive."""

    def pull(
        self, reference: str, name: str | None, max_bytes: int, insecure: bool, progress: Progress
    ) -> Kept:
        """Fetch one from a registry."""

    def remove(self, name: str) -> None:
        """Remove one."""

    def export(self, name: str, target: str) -> None:
        """Write one to a file."""


@contextmanager
def keeper(backend: str) -> Iterator[Keeper]:
    """Return who keeps the images of a backend."""
    if backend != "docker":
        yield _Embedded()
        return
    from rock_gym.backends.docker import DockerBackend

    engine = DockerBackend()
    try:
        yield _Engine(engine.images)
    finally:
        engine.close()


class _Embedded:
    def list(self) -> list[Kept]:
        from rock_gym.images import Store

        return [_kept(each) for each in Store().list()]

    def take(self, source: str, name: str, max_bytes: int) -> Kept:
        from rock_gym.images.archive import import_image

        return _kept(import_image(source, name, max_bytes=max_bytes))

    def pull(
        self, reference: str, name: str | None, max_bytes: int, insecure: bool, progress: Progress
    ) -> Kept:
        from rock_gym.images.pull import pull_image

        return _kept(pull_image(reference, name, max_bytes=max_bytes, tls_verify=not insecure))

    def remove(self, name: str) -> None:
        from rock_gym.images import Store

        Store().remove(name)

    def export(self, name: str, target: str) -> None:
        from rock_gym.images.export import export_image

        export_image(name, target)


def _kept(image: Image) -> Kept:
    return Kept("bubblewrap", image.name, image.size_bytes, len(image.layers), image.created_s)


class _Engine:
    def __init__(self, images: Images) -> None:
        self._images = images

    def list(self) -> list[Kept]:
        return [Kept("docker", **each) for each in self._images.list()]

    def take(self, source: str, name: str, max_bytes: int) -> Kept:
        # Unpacked by us and packed again, an archive of any kind is one that every engine takes,
        # and what it may unpack to is held.
        from rock_gym.images import Store
        from rock_gym.images.archive import import_image
        from rock_gym.images.export import export_image

        with tempfile.TemporaryDirectory() as folder:
            store, archive = Store(Path(folder, "store")), str(Path(folder, "archive"))
            import_image(source, name, store, max_bytes=max_bytes)
            export_image(name, archive, store)
            store.remove(name)
            made = self._images.load(archive, name)
        return Kept("docker", made.name, made.size_bytes)

    def pull(
        self, reference: str, name: str | None, max_bytes: int, insecure: bool, progress: Progress
    ) -> Kept:
        self._images.pull(reference, progress=progress)
        made = self._images.named(reference, name or reference)
        return Kept("docker", made.name, made.size_bytes)

    def remove(self, name: str) -> None:
        self._images.remove(name)

    def export(self, name: str, target: str) -> None:
        self._images.save(name, target)
