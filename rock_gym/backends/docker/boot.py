"""Bringing up a container's first process, each time that the container is started."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import time
from dataclasses import dataclass
from importlib import resources
from typing import Any

from rock_gym.backends.docker import protocol, side
from rock_gym.backends.docker.engine import Engine
from rock_gym.backends.docker.link import Link
from rock_gym.backends.seccomp import filter_program
from rock_gym.errors import BackendUnavailable, SandboxClosed, SandboxLost, StartFailed

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_GREETING_WORDS = 16
_SHELLS = ("/bin/sh", "/bin/bash", "/usr/bin/bash")
# What the shell that makes way for the agent adds.
_NOT_OURS = ("PWD", "OLDPWD", "SHLVL", "_")


@dataclass(frozen=True, slots=True)
class Boot:
    """What a container's first process is brought up with.

    Attributes:
        sandbox_id: Ours, for errors.
        agent: Its program.
        setup: What it is told first: its mark, and the filter for all that it starts.
        directory: Where it comes to for sockets, if it does.
    """

    sandbox_id: str
    agent: bytes
    setup: bytes
    directory: str | None

    @classmethod
    def of(
        cls,
        sandbox_id: str,
        image: dict[str, Any],
        *,
        mark: bytes | None = None,
        directory: str | None = None,
    ) -> Boot:
        """Choose it for an image.

        Raises:
            BackendUnavailable: If there is no program for its machine.
        """
        machine = _machine_of(image)
        mark = mark or secrets.token_bytes(protocol.RESET_MARK_BYTES)
        return cls(sandbox_id, agent_program(machine), mark + filter_program(machine), directory)

    @property
    def mark(self) -> bytes:
        """What it says when it starts over."""
        return self.setup[: protocol.RESET_MARK_BYTES]

    def bring_up(
        self, engine: Engine, container: str, deadline: float, door: side.Door | None
    ) -> Link:
        """Start a container that is created or has stopped, and wait until it takes orders.

        Args:
            engine: Where it is.
            container: The engine's id of it.
            deadline: In terms of ``time.monotonic``.
            door: Where it comes to for sockets, if it does.

        Raises:
            StartFailed: If it does not come up, or the engine refuses.
            BackendUnavailable: If the engine does not answer.
        """
        link = Link(*engine.attach(container), self.sandbox_id)
        try:
            engine.start(container)
            self._hand_over(link, deadline)
            if door is not None:
                self._meet(engine, container, link, deadline, door)
            return link
        except BaseException:
            link.close()
            link.free()
            raise

    def take_over(self, engine: Engine, container: str, timeout_s: float) -> Link:
        """Have the first process of a container, which runs, start over for us.

        Args:
            engine: Where it is.
            container: The engine's id of it.
            timeout_s: How long it may take.

        Raises:
            StartFailed: If it does not answer.
        """
        link = Link(*engine.attach(container), self.sandbox_id, self.mark)
        try:
            link.send(self.mark)
            if link.await_greeting(timeout_s) is None:
                raise StartFailed("the sandbox does not answer", sandbox_id=self.sandbox_id)
            return link
        except BaseException:
            link.close()
            link.free()
            raise

    def _hand_over(self, link: Link, deadline: float) -> None:
        """Give the container its first process, and wait until that answers."""
        with contextlib.suppress(SandboxLost, SandboxClosed):  # the greeting then does not come
            link.send(self.agent)
        greeting = link.await_greeting(deadline - time.monotonic())
        if greeting is None:
            text = link.error_text.decode("utf-8", "replace").strip()
            why = "it ended at once" if link.dead else "it did not come up in time"
            raise StartFailed(
                f"the sandbox did not start: {text or why}; its image needs /bin/sh, head and "
                "chmod",
                output=text,
            )
        if protocol.WORD.unpack_from(greeting)[0] != protocol.VERSION:
            raise StartFailed("the sandbox's first process is of another version of rock_gym")
        link.send(protocol.frame(0, protocol.SETUP, self.setup))

    def _meet(
        self, engine: Engine, container: str, link: Link, deadline: float, door: side.Door
    ) -> None:
        """Have the first process come to the door, before anything else runs inside."""
        link.send(door.order())
        told = engine.inspect(container)
        pid = told["State"]["Pid"] if told is not None else 0
        link.move_to(door.accept(pid, deadline - time.monotonic()))


@dataclass(frozen=True, slots=True)
class Made:
    """What a container was made as.

    Attributes:
        container: The engine's id of it.
        boot: What its first process is brought up with.
        workdir: Where work is done.
        image_config: The configuration of its image.
        bounded: Where alone it can write, if its root is read-only: all of that is memory.
        quota: Whether the storage driver limits what it writes elsewhere.
        hides_groups: Whether nothing inside sees its control groups.
        memory_bytes: Its limit, if it has one.
        disk_bytes: Its limit, if it has one.
        leased: Whether it is a lease, and does not end with its owner.
    """

    container: str
    boot: Boot
    workdir: str
    image_config: dict[str, Any]
    bounded: tuple[str, ...]
    quota: bool
    hides_groups: bool
    memory_bytes: int | None
    disk_bytes: int | None
    leased: bool


def read_greeting(greeting: bytes) -> tuple[str, dict[str, str]]:
    """Return the shell of a container, and what its processes get for their environment."""
    shell = protocol.WORD.unpack_from(greeting, 12)[0]
    environ = {}
    for item in greeting[_GREETING_WORDS:].split(b"\0"):
        name, sign, value = os.fsdecode(item).partition("=")
        if sign and name not in _NOT_OURS:
            environ[name] = value
    return _SHELLS[shell if shell < len(_SHELLS) else 0], environ


def _machine_of(image: dict[str, Any]) -> str:
    architecture = image.get("Architecture") or "amd64"
    if architecture not in _MACHINES:
        raise BackendUnavailable(
            f"there is no first process for images of {architecture} yet; "
            f"use an image for {' or '.join(_MACHINES)}"
        )
    return _MACHINES[architecture]


@functools.cache
def agent_program(machine: str) -> bytes:
    """Return the first process's program for a machine."""
    return resources.files(__package__).joinpath("agent", f"agent.{machine}").read_bytes()
