"""The store: layers as directories, and names that stand for lists of them.

::

    names/NAME.json   an image: its layers, lowest first, and its settings
    layers/ID/        a layer, never changed once it is here
    drafts/ID/        something on its way; locked by whoever is at it
    locks/NAME        held while an image of that name is made
    lock              held while names and layers change, which takes no time

A layer of an archive is called after the digest of its content and of those below it, as what it
hides depends on them, so that images share it. Whoever
uses a layer holds a shared lock on its directory. What nobody locks and no name stands for, a
killed process's draft above all, is removed at the next change. The store belongs to one user and
nobody else can enter it: it holds set-user-id programs of strangers.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from rock_gym.errors import ImageError, ImageNotFound
from rock_gym.images import trees
from rock_gym.images.names import file_name, full_name

_VARIABLE = "ROCK_GYM_DATA"
_FORMAT = 1

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# Overlayfs takes 500.
MAX_LAYERS = 400


@dataclass(frozen=True, slots=True)
class Config:
    """What an image says about how programs in it are run.

    Attributes:
        env: Environment variables.
        workdir: Where programs start; None leaves it to the backend.
        architecture: In the words of the OCI, such as ``amd64``.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the store.

    Attributes:
        name: Its name, with the tag.
        layers: Ids of its layers, lowest first.
        sizes: What the files of each layer hold, in bytes.
        config: How programs in it are run.
        created_s: When it was made, in seconds since the epoch.
    """

    name: str
    layers: tuple[str, ...]
    sizes: tuple[int, ...]
    config: Config
    created_s: float

    @property
    def size_bytes(self) -> int:
        """What the files of its layers hold together."""
        return sum(self.sizes)


class Store:
    """A store of images. Safe for concurrent use by any number of threads and processes.

    Args:
        root: Its directory, which is made when it is first needed. By default ``images`` in the
            directory that ROCK_GYM_DATA names, else in the user's data directory.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else _default_root()

    def list(self) -> list[Image]:
        """Return all images, by name."""
        try:
            names = sorted(os.listdir(self.root / "names"))
        except FileNotFoundError:
            return []
        found = (_read(self.root / "names" / name) for name in names if name.endswith(".json"))
        return [image for image in found if image is not None]

    def get(self, name: str) -> Image:
        """Return the image of a name.

        Raises:
            SpecError: If it is not a name.
            ImageNotFound: If there is none.
        """
        image = _read(self._name_path(full_name(name)))
        if image is None:
            raise ImageNotFound(
                f"no image {name!r} in {self.root}; see what there is with: rock-gym image list"
            )
        return image

    def layer_path(self, layer: str) -> str:
        """Return where a layer's files are."""
        return str(self.root / "layers" / layer)

    def hold(self, layer: str) -> int:
        """Keep a layer from being removed until the returned descriptor is closed.

        Raises:
            FileNotFoundError: If it is not there.
        """
        path = self.layer_path(layer)
        fd = os.open(path, _DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            # It may have been removed, or another been put there, before it was locked.
            if not os.path.samestat(os.fstat(fd), os.stat(path)):
                raise FileNotFoundError(path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def remove(self, name: str) -> None:
        """Remove an image, and those of its layers that no other image has.

        Raises:
            ImageNotFound: If there is none.
            ImageError: If a sandbox uses one of these layers.
        """
        full = full_name(name)
        with self._changing():
            image = self.get(name)
            others = self._referenced(but=full)
            for layer in image.layers:
                if layer not in others and self._is_held(layer):
                    raise ImageError(
                        f"image {name!r} is in use by a sandbox or an import; stop that first"
                    )
            self._name_path(full).unlink()
            self._sweep()

    def sweep(self) -> builtins.list[str]:
        """Remove what no name stands for and nobody is at; returns what that was."""
        if not self.root.exists():
            return []
        with self._changing():
            return self._sweep()

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Draft]:
        """Begin an image: a place to build its layers in, which is removed afterwards.

        Of one name only one is in the making: others wait here.

        Raises:
            SpecError: If it is not a name.
        """
        full = full_name(name)
        self._prepare()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_locked(self.root / "locks" / file_name(full)))
            path = stack.enter_context(self.scratch())
            yield Draft(self, full, path, stack)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a directory beside the layers, which is removed afterwards, come what may."""
        with contextlib.ExitStack() as stack:
            with self._changing():
                self._sweep()
                path = self.root / "drafts" / secrets.token_hex(8)
                path.mkdir(mode=0o700)
                fd = os.open(path, _DIRECTORY)
                fcntl.flock(fd, fcntl.LOCK_EX)
            stack.callback(os.close, fd)
            stack.callback(trees.remove, str(path))
            yield path

    def publish(self, image: Image, new: Mapping[str, Path]) -> None:
        """Put layers in their places and let a name stand for them, whatever it stood for before.

        Args:
            image: The image.
            new: Directories that are to become layers, by the layers' ids.
        """
        text = json.dumps({"format": _FORMAT, **dataclasses.asdict(image)}, indent=1)
        with self._changing():
            for layer, path in new.items():
                place = self.layer_path(layer)
                if not os.path.exists(place):
                    os.rename(path, place)
            path = self._name_path(image.name)
            temporary = path.with_suffix(".new")
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
            os.rename(temporary, path)

    @contextlib.contextmanager
    def reading_closed(self) -> Iterator[None]:
        """Be the only one that opens directories for a moment to read what is in them.

        Root need not; of other users two at once would take each other's modes for the true ones.
        """
        if os.geteuid() == 0:
            yield
            return
        with _locked(self.root / "locks" / "modes"):
            yield

    # What is behind it

    def _name_path(self, full: str) -> Path:
        return self.root / "names" / f"{file_name(full)}.json"

    def _prepare(self) -> None:
        """Make the directories, and refuse a store that others could meddle with."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.root.stat()
        if found.st_uid != os.geteuid():
            raise ImageError(
                f"the store {self.root} belongs to another user; let {_VARIABLE} name a directory "
                "of your own"
            )
        if found.st_mode & 0o077:
            self.root.chmod(0o700)
        for name in ("names", "layers", "drafts", "locks"):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self._prepare()
        with _locked(self.root / "lock"):
            yield

    def _referenced(self, but: str = "") -> set[str]:
        return {layer for image in self.list() if image.name != but for layer in image.layers}

    def _is_held(self, layer: str) -> bool:
        try:
            fd = os.open(self.layer_path(layer), _DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(fd)
        finally:
            os.close(fd)

    def _sweep(self) -> builtins.list[str]:
        removed = []
        referenced = self._referenced()
        for folder in ("layers", "drafts"):
            for name in os.listdir(self.root / folder):
                if folder == "layers" and name in referenced:
                    continue
                path = str(self.root / folder / name)
                try:
                    fd = os.open(path, _DIRECTORY)
                except FileNotFoundError:
                    continue  # a draft, which goes without the lock on the store
                try:
                    if _try_lock(fd):
                        trees.remove(path)
                        removed.append(path)
                finally:
                    os.close(fd)
        return removed


class Draft:
    """An image in the making.

    Attributes:
        path: A directory for its layers.
    """

    def __init__(self, store: Store, name: str, path: Path, stack: contextlib.ExitStack) -> None:
        self.path = path
        self._store = store
        self._name = name
        self._stack = stack
        self._new: dict[str, Path] = {}
        self._layers: list[str] = []
        self._sizes: list[int] = []

    @property
    def layers(self) -> Sequence[str]:
        """Where its layers are so far, lowest first."""
        return [str(self._new.get(one, self._store.layer_path(one))) for one in self._layers]

    def begin_with(self, image: Image) -> None:
        """Begin with the layers of another image, which then stay in the store.

        Raises:
            FileNotFoundError: If one of them is gone.
        """
        for layer, size in zip(image.layers, image.sizes, strict=True):
            self._hold(layer, size)

    def reuse(self, digest: str) -> bool:
        """Go on with a layer of the store, which then stays there. False if it is not there."""
        layer = self._chained(digest)
        for image in self._store.list():
            if layer in image.layers:
                try:
                    self._hold(layer, image.sizes[image.layers.index(layer)])
                except FileNotFoundError:
                    return False
                return True
        return False

    def _hold(self, layer: str, size: int) -> None:
        self._stack.callback(os.close, self._store.hold(layer))
        self._layers.append(layer)
        self._sizes.append(size)

    def make(self) -> Path:
        """Make an empty directory for the next layer, or whatever else it takes."""
        path = self.path / secrets.token_hex(8)
        path.mkdir(mode=0o700)
        return path

    def add(self, digest: str, path: Path, size_bytes: int) -> None:
        """Go on with a layer that has been built; ``digest`` stands for its content."""
        layer = self._chained(digest)
        self._new[layer] = path
        self._layers.append(layer)
        self._sizes.append(size_bytes)

    def _chained(self, digest: str) -> str:
        below = self._layers[-1] if self._layers else ""
        return hashlib.sha256(f"{below} {digest}".encode()).hexdigest()

    def publish(self, config: Config) -> Image:
        """Make it an image of the store."""
        layers, sizes = tuple(self._layers), tuple(self._sizes)
        image = Image(self._name, layers, sizes, config, time.time())
        self._store.publish(image, self._new)
        return image


def _default_root() -> Path:
    given = os.environ.get(_VARIABLE)
    base = Path(given) if given else platformdirs.user_data_path("rock-gym", appauthor=False)
    return base.absolute() / "images"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> Image | None:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None  # broken ones are left by a power cut, and stand for nothing
    if not isinstance(value, dict) or value.pop("format", None) != _FORMAT:
        raise ImageError(f"{path} was written by another version of rock_gym; import it again")
    value["layers"] = tuple(value["layers"])
    value["sizes"] = tuple(value["sizes"])
    value["config"] = Config(**value["config"])
    return Image(**value)
