"""The Docker backend: sandboxes are containers of an engine, which has to be there already."""

from __future__ import annotations

import builtins
import contextlib
import functools
import hashlib
import json
import os
import secrets
import threading
import time
import weakref
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from rock_gym.backends.base import Capabilities, Container
from rock_gym.backends.docker import protocol, settings, side
from rock_gym.backends.docker.container import DockerContainer, Made
from rock_gym.backends.docker.engine import Engine
from rock_gym.backends.docker.images import Images
from rock_gym.backends.docker.link import Link
from rock_gym.backends.seccomp import filter_program
from rock_gym.errors import (
    BackendUnavailable,
    SandboxClosed,
    SandboxLost,
    SpecError,
    StartFailed,
)
from rock_gym.spec import SandboxSpec

_NETWORKS = ("none", "bridge", "internal")
# How long a lease runs on that nobody renews.
LEASE_S = 900.0
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class DockerBackend:
    """Starts sandboxes as containers. See ``Backend``.

    Args:
        url: Where the engine listens; None means ``DOCKER_HOST``, else the usual socket.
    """

    name = "docker"

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._images: Images | None = None
        self._quota: bool | None = None
        self._containers: weakref.WeakSet[DockerContainer] = weakref.WeakSet()

    @property
    def engine(self) -> Engine:
        """The engine, found on first use.

        Raises:
            BackendUnavailable: If none answers.
        """
        with self._lock:
            if self._engine is None:
                self._engine = Engine(self._url)
                self._sweep(self._engine)
            return self._engine

    @property
    def images(self) -> Images:
        """The engine's images.

        Raises:
            BackendUnavailable: If no engine answers.
        """
        engine = self.engine
        with self._lock:
            if self._images is None:
                self._images = Images(engine)
            return self._images

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do; see ``Backend.capabilities``."""
        info = self.engine.info
        return Capabilities(
            sockets=False,
            control=True,
            memory="cgroup" if info.get("MemoryLimit") else "none",
            cpu="cgroup" if info.get("CpuCfsQuota") else "none",
            pids="cgroup" if info.get("PidsLimit") else "none",
            disk="quota" if self._has_quota() else "tmpfs",
        )

    def check(self, spec: SandboxSpec) -> None:
        """Refuse what can never be started here; see ``Backend.check``."""
        if spec.network not in _NETWORKS:
            raise SpecError(f"network must be one of {_NETWORKS}, not {spec.network!r}")
        side.check(spec)
        self.images.check(spec)

    def start(self, spec: SandboxSpec, sandbox_id: str, timeout_s: float = 60.0) -> Container:
        """Start a container; see ``Backend.start``."""
        self.check(spec)
        deadline = time.monotonic() + timeout_s
        engine = self.engine
        image = self.images.supply(spec)
        machine = _machine_of(image)
        setup = secrets.token_bytes(protocol.RESET_MARK_BYTES) + filter_program(machine)
        agent = agent_program(machine)
        quota = self._has_quota()
        if spec.network == "internal":
            engine.ensure_internal_network(settings.INTERNAL_NETWORK)
        with side.Door() if spec.run_dir else contextlib.nullcontext() as door:
            config = settings.container_config(
                spec,
                sandbox_id,
                image,
                agent_bytes=len(agent),
                labels=_labels(spec, sandbox_id, setup[: protocol.RESET_MARK_BYTES]),
                quota=quota,
                door=door.directory if door is not None else None,
            )
            container = engine.create(sandbox_id, config)
            link: Link | None = None
            try:
                link = Link(*engine.attach(container), sandbox_id)
                engine.start(container)
                self._hand_over(link, agent, setup, deadline)
                if door is not None:
                    self._meet(door, link, container, deadline)
            except BaseException:
                if link is not None:
                    link.close()
                engine.remove(container)
                if link is not None:
                    link.free()
                raise
        made = Made(
            container,
            sandbox_id,
            settings.workdir_of(spec, image, quota),
            image["Config"],
            settings.is_closed(spec, quota),
            config["HostConfig"]["Memory"] or None,
            spec.resources.disk_bytes,
            spec.lifetime == "lease",
            setup[: protocol.RESET_MARK_BYTES],
        )
        started = DockerContainer(engine, self.images, made, link, dict(spec.env))
        self._containers.add(started)
        if made.leased:
            started.renew(LEASE_S)
        return started

    def leases(self) -> builtins.list[str]:
        """Return the ids of sandboxes that can be adopted."""
        return [
            found["Labels"][settings.LABEL]
            for found in self.engine.list(settings.LABEL_LEASE)
            if found["State"] == "running"
        ]

    def adopt(
        self, sandbox_id: str, timeout_s: float = 60.0
    ) -> tuple[SandboxSpec, DockerContainer]:
        """Take over a lease whose owner has ended. What ran in it is killed; its files stay.

        Variables of its spec are secrets, which the engine was not told: they are gone.

        Raises:
            SandboxLost: If there is none of that id, or it has ended.
            StartFailed: If it does not answer.
        """
        engine = self.engine
        told = engine.inspect(sandbox_id)
        labels = told["Config"]["Labels"] if told is not None else {}
        if told is None or settings.LABEL_LEASE not in labels or not told["State"]["Running"]:
            raise SandboxLost("there is no lease of that id; start another one")
        spec = replace(SandboxSpec.from_json(json.loads(labels[settings.LABEL_SPEC])), env=())
        image = engine.inspect_image(told["Image"])
        mark = bytes.fromhex(labels[settings.LABEL_MARK])
        link = Link(*engine.attach(told["Id"]), sandbox_id, mark)
        try:
            link.send(mark)
            if link.await_greeting(timeout_s) is None:
                raise StartFailed("the sandbox does not answer", sandbox_id=sandbox_id)
        except BaseException:
            link.close()
            link.free()
            raise
        quota = self._has_quota()
        made = Made(
            told["Id"],
            sandbox_id,
            settings.workdir_of(spec, image, quota),
            image["Config"],
            settings.is_closed(spec, quota),
            told["HostConfig"]["Memory"] or None,
            spec.resources.disk_bytes,
            leased=True,
            mark=mark,
        )
        adopted = DockerContainer(engine, self.images, made, link, {})
        self._containers.add(adopted)
        return spec, adopted

    def list(self) -> list[dict[str, str]]:
        """Return what is known of each container of ours, whoever started it."""
        return [
            {
                "id": found["Labels"].get(settings.LABEL) or found["Names"][0].lstrip("/"),
                "state": found["State"],
                "image": found["Image"],
                "lifetime": "lease" if settings.LABEL_LEASE in found["Labels"] else "owner",
                "owner": "dead" if is_dead(found["Labels"][settings.LABEL_OWNER]) else "alive",
                "pool": found["Labels"].get(settings.LABEL_POOL, ""),
            }
            for found in self.engine.list(settings.LABEL_OWNER)
        ]

    def reap(self) -> builtins.list[str]:
        """Remove what owners that have died left behind, and leases that have ended.

        Returns:
            The names of what was removed.
        """
        removed = []
        for found in self.engine.list(settings.LABEL_OWNER):
            labels = found["Labels"]
            runs = found["State"] in ("running", "paused")
            if is_dead(labels[settings.LABEL_OWNER]) and not (
                runs and settings.LABEL_LEASE in labels
            ):
                self.engine.remove(found["Id"])
                removed.append(found["Names"][0].lstrip("/"))
        return removed

    def _meet(self, door: side.Door, link: Link, container: str, deadline: float) -> None:
        """Have the first process come to the door, before anything else runs inside."""
        link.send(door.order())
        told = self.engine.inspect(container)
        pid = told["State"]["Pid"] if told is not None else 0
        link.move_to(door.accept(pid, deadline - time.monotonic()))

    def _hand_over(self, link: Link, agent: bytes, setup: bytes, deadline: float) -> None:
        """Give the container its first process, and wait until that answers."""
        with contextlib.suppress(SandboxLost, SandboxClosed):  # the greeting then does not come
            link.send(agent)
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
        link.send(protocol.frame(0, protocol.SETUP, setup))

    def _has_quota(self) -> bool:
        """Whether the storage driver holds a limit on the size of a container's root."""
        if self._quota is None:
            self._quota = self.engine.can_limit_disk()
        return self._quota

    def _sweep(self, engine: Engine) -> None:
        """Remove what owners that have died since left behind: containers that never started."""
        for found in engine.list(settings.LABEL_OWNER):
            if found["State"] in ("created", "exited", "dead") and is_dead(
                found["Labels"][settings.LABEL_OWNER]
            ):
                engine.remove(found["Id"])

    def close(self) -> None:
        """Kill every container that is left but leases; see ``Backend.close``."""
        for container in tuple(self._containers):
            if container.is_leased:
                container.detach()
            else:
                container.kill()
        with self._lock:
            engine, self._engine, self._images = self._engine, None, None
        if engine is not None:
            engine.close()


def _labels(spec: SandboxSpec, sandbox_id: str, mark: bytes) -> dict[str, str]:
    labels = {
        settings.LABEL: sandbox_id,
        settings.LABEL_OWNER: owner_label(),
        settings.LABEL_POOL: hashlib.sha256(repr(spec).encode()).hexdigest()[:12],
        settings.LABEL_SPEC: settings.spec_label(spec),
    }
    if spec.lifetime == "lease":
        labels |= {settings.LABEL_LEASE: "1", settings.LABEL_MARK: mark.hex()}
    return labels


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


# Owners


def _start_time(pid: int | str) -> str:
    # The name stands in parentheses and may hold anything.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def owner_label() -> str:
    """Say which process we are, so that another can tell whether we still live."""
    where = {
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "namespace": os.readlink("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "start": _start_time("self"),
    }
    return json.dumps(where)


def is_dead(owner: str) -> bool:
    """Whether an owner has certainly ended. Of other machines and containers nothing is known."""
    try:
        theirs, ours = json.loads(owner), json.loads(owner_label())
    except ValueError:
        return False
    if (theirs.get("boot"), theirs.get("namespace")) != (ours["boot"], ours["namespace"]):
        return False
    try:
        return bool(_start_time(theirs["pid"]) != theirs["start"])
    except OSError:
        return True
