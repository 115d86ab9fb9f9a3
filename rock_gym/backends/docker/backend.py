"""The Docker backend: sandboxes are containers of an engine, which has to be there already."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import json
import signal
import threading
import time
import weakref
from dataclasses import replace
from datetime import datetime
from typing import Any

from rock_gym.backends.base import Capabilities, Container
from rock_gym.backends.docker import settings, side
from rock_gym.backends.docker.boot import Boot, Made
from rock_gym.backends.docker.container import LEASE_S, DockerContainer
from rock_gym.backends.docker.engine import Engine
from rock_gym.backends.docker.images import Images
from rock_gym.backends.docker.owner import Keeper, is_dead, owner_label
from rock_gym.errors import SandboxLost, SpecError
from rock_gym.spec import SandboxSpec

_NETWORKS = ("none", "bridge", "internal")


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
        self._keeper: Keeper | None = None
        self._leftovers: builtins.list[str] = []
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
        settings.check_sizes(spec, self._has_quota())
        self.images.check(spec)

    def start(self, spec: SandboxSpec, sandbox_id: str, timeout_s: float = 60.0) -> Container:
        """Start a container; see ``Backend.start``."""
        self.check(spec)
        deadline = time.monotonic() + timeout_s
        engine = self.engine
        self._clean_up(engine, keep=spec.lifetime == "owner")
        image = self.images.supply(spec)
        quota = self._has_quota()
        if spec.network == "internal":
            engine.ensure_internal_network(settings.INTERNAL_NETWORK)
        with side.Door() if spec.run_dir else contextlib.nullcontext() as door:
            directory = door.directory if door is not None else None
            boot = Boot.of(sandbox_id, image, directory=directory)
            config = settings.container_config(
                spec,
                sandbox_id,
                image,
                agent_bytes=len(boot.agent),
                labels=_labels(spec, sandbox_id, boot.mark),
                quota=quota,
                door=directory,
            )
            try:
                container = engine.create(sandbox_id, config)
                link = boot.bring_up(engine, container, deadline, door)
            except BaseException:
                # By its name: whether it was made is not sure if the engine did not answer.
                if engine.remove(sandbox_id) is not None:
                    self._leftovers.append(sandbox_id)
                raise
        made = self._made(spec, container, boot, image, config["HostConfig"]["Memory"])
        started = DockerContainer(engine, self.images, made, link, dict(spec.env), self._leftovers)
        self._containers.add(started)
        if made.leased:
            started.renew(LEASE_S)
        return started

    def _made(
        self, spec: SandboxSpec, container: str, boot: Boot, image: dict[str, Any], memory: int
    ) -> Made:
        quota = self._has_quota()
        return Made(
            container=container,
            boot=boot,
            workdir=settings.workdir_of(spec, image, quota),
            image_config=image["Config"],
            bounded=settings.bounded_places(spec, image, quota),
            quota=quota and spec.resources.disk_bytes is not None,
            hides_groups=spec.profile == "strict",
            memory_bytes=memory or None,
            disk_bytes=spec.resources.disk_bytes,
            leased=spec.lifetime == "lease",
        )

    def _clean_up(self, engine: Engine, *, keep: bool) -> None:
        """Remove what could not be removed before, and have somebody do so after our own end."""
        self._remove_leftovers(engine)
        with self._lock:
            if keep and (self._keeper is None or not self._keeper.is_there()):
                self._keeper = Keeper(engine.url)

    def _remove_leftovers(self, engine: Engine) -> None:
        with self._lock:
            leftovers = self._leftovers[:]
            self._leftovers.clear()
        for number, left in enumerate(leftovers):
            if engine.remove(left) is not None:
                self._leftovers += leftovers[number:]
                return

    def leases(self) -> builtins.list[str]:
        """Return the ids of sandboxes that can be adopted."""
        return [
            found["Labels"][settings.LABEL]
            for found in self.engine.list(settings.LABEL_LEASE)
            if found["State"] == "running"
        ]

    def adopt(
        self, sandbox_id: str, timeout_s: float = 60.0, *, stopped: bool = False
    ) -> tuple[SandboxSpec, DockerContainer]:
        """Take over a lease whose owner has ended. What ran in it is killed; its files stay.

        Variables of its spec are secrets, which the engine was not told: they are gone.

        Args:
            sandbox_id: Which one.
            timeout_s: How long it may take to answer.
            stopped: Whether its owner had stopped it, so that it is started again for this. One
                that has ended otherwise is not: its time was up.

        Raises:
            SandboxLost: If there is none of that id, or it has ended.
            StartFailed: If it does not answer.
        """
        engine = self.engine
        told = engine.inspect(sandbox_id)
        labels = told["Config"]["Labels"] if told is not None else {}
        runs = told is not None and told["State"]["Running"]
        if told is None or settings.LABEL_LEASE not in labels or not (runs or stopped):
            raise SandboxLost("there is no lease of that id; start another one")
        spec = replace(SandboxSpec.from_json(json.loads(labels[settings.LABEL_SPEC])), env=())
        image = engine.inspect_image(told["Image"])
        mark = bytes.fromhex(labels[settings.LABEL_MARK])
        boot = Boot.of(sandbox_id, image, mark=mark)
        if runs:
            link = boot.take_over(engine, told["Id"], timeout_s)
        else:
            link = boot.bring_up(engine, told["Id"], time.monotonic() + timeout_s, None)
        made = self._made(spec, told["Id"], boot, image, told["HostConfig"]["Memory"])
        adopted = DockerContainer(engine, self.images, made, link, {}, self._leftovers)
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
            if self._is_left(self.engine, found):
                self.engine.remove(found["Id"])
                removed.append(found["Names"][0].lstrip("/"))
        return removed

    def _has_quota(self) -> bool:
        """Whether the storage driver holds a limit on the size of a container's root."""
        if self._quota is None:
            self._quota = self.engine.can_limit_disk()
        return self._quota

    def _sweep(self, engine: Engine) -> None:
        """Remove what owners that have died since left behind: containers that never started."""
        for found in engine.list(settings.LABEL_OWNER):
            if found["State"] in ("created", "exited", "dead") and self._is_left(engine, found):
                engine.remove(found["Id"])

    def _is_left(self, engine: Engine, found: dict[str, Any]) -> bool:
        """Whether a container's owner has died, and nobody may take it over."""
        if not is_dead(found["Labels"][settings.LABEL_OWNER]):
            return False
        if settings.LABEL_LEASE not in found["Labels"]:
            return True
        if found["State"] in ("running", "paused"):
            # It ends by itself, unless its owner died before it had its first process.
            programs = [command.split(" ")[0] for command in engine.commands(found["Id"])]
            return bool(programs) and not any(each.endswith("/.agent") for each in programs)
        told = engine.inspect(found["Id"])
        return told is None or not _was_stopped(told["State"])

    def close(self) -> None:
        """Kill every container that is left but leases; see ``Backend.close``."""
        for container in tuple(self._containers):
            if container.is_leased:
                container.detach()
            else:
                container.kill()
        with self._lock:
            engine, self._engine, self._images = self._engine, None, None
            keeper, self._keeper = self._keeper, None
        if engine is not None:
            self._remove_leftovers(engine)
            engine.close()
        if keeper is not None:
            keeper.close()


def _was_stopped(state: dict[str, Any]) -> bool:
    """Whether an owner has stopped a lease so lately that it, or another one, may still want it."""
    if state["ExitCode"] != 128 + signal.SIGKILL or state["OOMKilled"]:
        return False
    finished = datetime.fromisoformat(f"{state['FinishedAt'][:19]}+00:00").timestamp()
    return time.time() - finished < LEASE_S


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
