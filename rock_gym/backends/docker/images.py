"""Images of an engine: fetched, built, committed and pushed, with word of how far that is."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rock_gym.backends.base import CommittedImage
from rock_gym.backends.docker import settings
from rock_gym.backends.docker.engine import Engine
from rock_gym.errors import ImageError, ImageNotFound, SpecError, StartFailed
from rock_gym.spec import SandboxSpec

DEFAULT_IMAGE = "python:3.11"

_NAME = re.compile(
    r"[a-z0-9][a-z0-9._-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[\w][\w.-]{0,127})?"
)
_KEPT_LINES = 20
_LONGEST_NAME = 255

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to a registry. Its text form holds no password.

    Attributes:
        username: The account.
        password: Its password or token.
    """

    username: str
    password: str = field(repr=False)

    def as_json(self) -> dict[str, str]:
        """Return what the engine is told."""
        return {"username": self.username, "password": self.password}


def silent(line: str) -> None:
    """Take word of progress and do nothing with it."""


class Images:
    """The images of an engine. All methods may be called from any thread.

    What the user has logged in to with ``docker login`` needs no credentials here.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}

    def find(self, spec: SandboxSpec) -> str:
        """Return the name of a spec's image."""
        if spec.dockerfile is None:
            return spec.image or DEFAULT_IMAGE
        return f"rock-gym/build:{hashlib.sha256(spec.dockerfile.encode()).hexdigest()[:12]}"

    def check(self, spec: SandboxSpec) -> None:
        """Refuse an image that is not there and will not be fetched or built either.

        Raises:
            ImageNotFound: If it is not there.
        """
        if spec.dockerfile is None and spec.pull == "never":
            self._engine.inspect_image(self.find(spec))

    def supply(self, spec: SandboxSpec) -> dict[str, Any]:
        """Return what the engine knows of a spec's image, once it is there.

        Raises:
            ImageNotFound: If it is not there and cannot be had.
            StartFailed: If it cannot be built.
        """
        name = self.find(spec)
        with self._alone(name):
            if spec.pull == "always" and spec.dockerfile is None:
                self.pull(name)
            try:
                return self._engine.inspect_image(name)
            except ImageNotFound:
                if spec.dockerfile is not None:
                    self.build(name, spec.dockerfile)
                elif spec.pull == "missing":
                    self.pull(name)
                else:
                    raise
            return self._engine.inspect_image(name)

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Have one thread fetch or build an image while others wait for it."""
        with self._lock:
            lock = self._busy.setdefault(name, threading.Lock())
        with lock:
            yield

    def pull(
        self, name: str, *, credentials: Credentials | None = None, progress: Progress = silent
    ) -> None:
        """Fetch an image from its registry.

        Args:
            name: Its name; without a tag, ``latest``.
            credentials: Who we are there; None for what ``docker login`` left.
            progress: Is told how far it is.

        Raises:
            ImageNotFound: If it cannot be had; says why.
            SpecError: If it is no name of an image.
        """
        repository, tag = split_name(name)
        try:
            with self._engine.translated():
                lines = self._engine.api.pull(
                    repository,
                    tag=tag,
                    stream=True,
                    decode=True,
                    auth_config=credentials.as_json() if credentials else None,
                )
                failed = _follow(lines, progress)
        except StartFailed as error:
            failed = error.message
        if failed is not None:
            raise ImageNotFound(f"the image {name!r} cannot be fetched: {failed}")

    def push(
        self, name: str, *, credentials: Credentials | None = None, progress: Progress = silent
    ) -> None:
        """Send an image to the registry that its name begins with; arguments as for ``pull``.

        Raises:
            ImageNotFound: If the engine has no such image.
            StartFailed: If the registry does not take it.
        """
        self._engine.inspect_image(name)
        repository, tag = split_name(name)
        with self._engine.translated(name):
            lines = self._engine.api.push(
                repository,
                tag=tag,
                stream=True,
                decode=True,
                auth_config=credentials.as_json() if credentials else None,
            )
            failed = _follow(lines, progress)
        if failed is not None:
            raise StartFailed(f"the image {name!r} cannot be pushed: {failed}")

    def build(self, name: str, dockerfile: str, *, progress: Progress = silent) -> None:
        """Build an image from the text of a Dockerfile, without any other file.

        Raises:
            StartFailed: If it cannot be built; carries the last output.
        """
        split_name(name)
        seen: list[str] = []

        def note(line: str) -> None:
            seen.append(line)
            progress(line)

        refused = "the Dockerfile cannot be built"
        with self._engine.translated(refused=refused):
            lines = self._engine.api.build(
                fileobj=io.BytesIO(dockerfile.encode()),
                tag=name,
                rm=True,
                forcerm=True,
                decode=True,
            )
            failed = _follow(lines, note)
        if failed is not None:
            raise StartFailed(f"{refused}: {failed}", output="\n".join(seen[-_KEPT_LINES:]))

    def list(self) -> builtins.list[dict[str, Any]]:
        """Return the images that have a name: that, when they were made, and their sizes."""
        with self._engine.translated():
            found = self._engine.api.images()
        return [
            {
                "name": name,
                "size_bytes": int(image["Size"]),
                "layers": None,  # the engine would have to be asked for each
                "created_s": int(image["Created"]),
            }
            for image in found
            for name in sorted(image.get("RepoTags") or ())
            if name != "<none>:<none>"
        ]

    def remove(self, name: str) -> None:
        """Remove an image, or the name alone where it has others.

        Raises:
            ImageNotFound: If the engine has no such image.
            ImageError: If something uses it.
        """
        try:
            with self._engine.translated(name):
                self._engine.api.remove_image(name)
        except StartFailed as error:
            raise ImageError(f"the image {name!r} cannot be removed: {error.message}") from error

    def load(self, archive: str, name: str) -> CommittedImage:
        """Have an image from an archive that the embedded store has written.

        Raises:
            ImageError: If the engine does not take it.
        """
        split_name(name)
        try:
            with self._engine.translated(), open(archive, "rb") as file:
                failed = _follow(self._engine.api.load_image(file), silent)
        except StartFailed as error:
            failed = error.message
        if failed is not None:
            raise ImageError(f"the engine does not take the image {name!r}: {failed}")
        return self.named(name, name)

    def named(self, name: str, other: str) -> CommittedImage:
        """Give an image another name, beside the one it has; returns it by that.

        Raises:
            ImageNotFound: If the engine has no such image.
            SpecError: If the other is no name of an image.
        """
        repository, tag = split_name(other)
        size = int(self._engine.inspect_image(name)["Size"])
        with self._engine.translated(name):
            self._engine.api.tag(name, repository, tag)
        return CommittedImage(f"{repository}:{tag}", size)

    def save(self, name: str, target: str) -> None:
        """Write an image to a file, which appears whole or not at all.

        Raises:
            ImageNotFound: If the engine has no such image.
            ImageError: If the engine does not give all of it, or it cannot be written.
        """
        self._engine.inspect_image(name)
        temporary = f"{target}.{os.getpid()}.part"
        try:
            with open(temporary, "xb") as file:
                file.writelines(self._engine.api.get_image(name))
            os.replace(temporary, target)
        except OSError as error:  # those of docker-py and requests are OSErrors, too
            raise ImageError(f"{name!r} cannot be exported to {target}: {error}") from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def commit(self, container: str, name: str, config: dict[str, Any]) -> CommittedImage:
        """Keep a container's files as an image, which otherwise is like the one it came from.

        Args:
            container: The engine's id.
            name: The image's name.
            config: The configuration of the image that the container came from.
        """
        repository, tag = split_name(name)
        with self._engine.translated():
            self._engine.api.commit(
                container,
                repository,
                tag,
                changes=_changes(config),
                conf={"StopSignal": config.get("StopSignal") or "SIGTERM"},
            )
        size = int(self._engine.inspect_image(name)["Size"])
        return CommittedImage(name, size)


def split_name(name: str) -> tuple[str, str]:
    """Return the repository and the tag of an image's name.

    Raises:
        SpecError: If it is no name of an image.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise SpecError(f"not a name for an image: {name!r}; write it like 'me/tools:1.0'")
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "latest")


def _changes(config: dict[str, Any]) -> list[str]:
    """Undo, in an image, what was special to the container: our first process and our labels."""
    entrypoint, command = config.get("Entrypoint"), config.get("Cmd")
    changes = [f"WORKDIR {config.get('WorkingDir') or '/'}"]
    if entrypoint:
        changes.append(f"ENTRYPOINT {json.dumps(entrypoint)}")
    if command or not entrypoint:
        # With neither, the container's own would come through.
        changes.append(f"CMD {json.dumps(command or ['/bin/sh'])}")
    # A label cannot be taken away. Empty, it says that nobody owns what is started from the image.
    return changes + [f'LABEL {label}=""' for label in settings.LABELS]


def _follow(lines: Iterator[dict[str, Any]], progress: Progress) -> str | None:
    """Pass on what an engine tells while it works. Returns what went wrong, or None."""
    failed = None
    for line in lines:  # to the end, which closes the connection
        if "error" in line:
            failed = str(line["error"])
        words = [line.get("id"), line.get("status"), line.get("progress"), line.get("stream")]
        text = " ".join(str(word).strip() for word in words if word)
        if text:
            progress(text)
    return failed
