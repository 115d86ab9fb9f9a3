"""How what a client asks for becomes a sandbox: the spec, the backend, and a warm spare of it."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rock_gym.backends import get_backend
from rock_gym.backends.base import Backend
from rock_gym.backends.docker import DockerBackend
from rock_gym.backends.docker.images import Credentials
from rock_gym.errors import ImageNotFound, PoolClosed, RockGymError, SpecError
from rock_gym.pool import SandboxPool
from rock_gym.sandbox import Sandbox
from rock_gym.server.journal import Row
from rock_gym.server.leases import LeasingBackend
from rock_gym.server.messages import Amount, Resources, StartRequest
from rock_gym.server.settings import Settings
from rock_gym.spec import SandboxSpec, parse_cpus, parse_size

N = TypeVar("N", int, float)

_log = logging.getLogger("rock_gym.server")

# What ROCK gives a sandbox whose client does not say. Ceilings: nothing is set aside.
_CPUS = 2.0
_MEMORY = "8g"
# What ROCK's client asks for if nobody has chosen anything, and its server mostly ignores.
_ANY_DISK = "50G"
_START_S = 180.0
_WARM_KINDS = 8
# How long after a start a spare of the same kind is kept.
WARM_S = 600.0
_PATH = ("/", ".", "~")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be started.

    Attributes:
        image: The image by the client's name.
        spec: What the backend gets.
        backend: Who starts it.
        timeout_s: How long it may take.
    """

    image: str
    spec: SandboxSpec
    backend: Backend
    timeout_s: float

    @property
    def leased(self) -> bool:
        """Whether it outlives the server if that is killed."""
        return self.spec.lifetime == "lease"


def _is_any_disk(spec: SandboxSpec) -> bool:
    return spec.resources.disk_bytes == parse_size(_ANY_DISK)


def _without_disk(spec: SandboxSpec) -> SandboxSpec:
    return replace(spec, resources=replace(spec.resources, disk_bytes=None))


class _Shelf:
    """A pool, how many threads are about to take something from it, and when one did last."""

    def __init__(self, pool: SandboxPool) -> None:
        self.pool = pool
        self.users = 0
        self.used_s = 0.0


class Starter:
    """Starts sandboxes. Its methods block, and may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._shelves: OrderedDict[tuple[str, SandboxSpec], _Shelf] = OrderedDict()
        self._leasing: LeasingBackend | None = None
        self._closed = False

    # What is wanted

    def understand(self, request: StartRequest) -> Wish:
        """Return what a client means.

        Raises:
            SpecError: If that makes no sense.
            ImageNotFound: If there is no such image.
            BackendUnavailable: If this machine cannot run such sandboxes.
        """
        _refuse_what_is_not_here(request)
        named = self._settings.aliases.get(request.image)
        if named is None and request.image.startswith(_PATH):
            raise SpecError(
                "an image is a name: a directory of the server's machine can be had only under a "
                "name that the server was started with: --image-alias NAME=DIRECTORY"
            )
        spec = self._spec(request, named or request.image)
        try:
            # Of what nobody has chosen, nothing is to depend.
            backend = self._backend(_without_disk(spec) if _is_any_disk(spec) else spec, request)
        except ImageNotFound as error:
            raise ImageNotFound(self._why_not_found(request.image, error)) from error
        spec = self._for(backend, spec)
        backend.check(spec)
        return Wish(request.image, spec, backend, request.startup_timeout or _START_S)

    def _spec(self, request: StartRequest, image: str) -> SandboxSpec:
        nested = request.resources or Resources()
        cpus = _agreed("cpus", parse_cpus, nested.cpu, nested.cpus, request.cpus)
        memory = _agreed("memory", parse_size, nested.memory, request.memory)
        if request.limit_cpus is not None:
            cpus = parse_cpus(request.limit_cpus)
        return SandboxSpec.of(
            image,
            cpus=_CPUS if cpus is None else cpus,
            memory=_MEMORY if memory is None else memory,
            disk=request.disk,
            network=self._settings.network,
        )

    def _backend(self, spec: SandboxSpec, request: StartRequest) -> Backend:
        name = self._settings.backend
        try:
            return get_backend(name, spec)
        except ImageNotFound:
            if self._settings.pull == "never" or request.pull == "never" or name == "bubblewrap":
                raise
        docker = get_backend("docker", replace(spec, pull="missing"))
        if request.registry_username and request.registry_password:
            assert isinstance(docker, DockerBackend)
            who = Credentials(request.registry_username, request.registry_password)
            docker.images.pull(spec.image or "", credentials=who)
        return docker

    def _for(self, backend: Backend, spec: SandboxSpec) -> SandboxSpec:
        docker = backend.name == "docker"
        # The size of a container's root can be limited on few machines. Elsewhere, and in embedded
        # sandboxes, a limit means that files are in memory, which nobody has asked for by not
        # choosing any.
        if _is_any_disk(spec) and not (docker and backend.capabilities.disk == "quota"):
            spec = _without_disk(spec)
        if not docker:
            return spec
        lifetime = "lease" if self._settings.adopt else "owner"
        return replace(spec, pull=self._settings.pull, lifetime=lifetime)

    def _why_not_found(self, image: str, error: ImageNotFound) -> str:
        aliases = ", ".join(sorted(self._settings.aliases)) or "none"
        here = "IMAGE, one of the engine's" if self._settings.backend == "docker" else "host"
        return (
            f"{error.message}; or start the server with --image-alias {image}={here} "
            f"(aliases now: {aliases})"
        )

    # Starting

    def start(self, wish: Wish) -> Sandbox:
        """Start a sandbox, or take one that waits.

        Raises:
            RockGymError: As ``SandboxPool.acquire``.
        """
        backend = self.leasing() if wish.leased else wish.backend
        if not self._settings.warm:
            return Sandbox.from_spec(backend, wish.spec, wish.timeout_s)
        key = backend.name, wish.spec
        with self._lock:
            if self._closed:
                raise PoolClosed("the server is shutting down")
            shelf = self._shelves.get(key)
            if shelf is None:
                pool = SandboxPool.from_spec(wish.spec, backend=backend)
                shelf = self._shelves[key] = _Shelf(pool)
            shelf.users += 1
            shelf.used_s = time.monotonic()
            self._shelves.move_to_end(key)
        try:
            sandbox = shelf.pool.acquire(wish.timeout_s)
            shelf.pool.resize(min_idle=self._settings.warm)
        finally:
            with self._lock:
                shelf.users -= 1
        if len(self._shelves) > _WARM_KINDS:
            self.cool()
        return sandbox

    def cool(self) -> bool:
        """Keep spares of the kinds that were started last, and no pools without use.

        Returns:
            Whether there are spares that may have to go later.
        """
        unused = []
        old = time.monotonic() - WARM_S
        with self._lock:
            recent = list(self._shelves)[-_WARM_KINDS:]
            for key, shelf in list(self._shelves.items()):
                if shelf.users or (key in recent and shelf.used_s > old):
                    continue
                shelf.pool.resize(min_idle=0)
                if not shelf.pool.statistics().leased:
                    unused.append(self._shelves.pop(key).pool)
            warm = any(shelf.used_s > old for shelf in self._shelves.values())
        for pool in unused:
            pool.close()
        return warm

    def leasing(self) -> LeasingBackend:
        """Return the backend of containers that outlive a killed server.

        Raises:
            BackendUnavailable: If no engine answers.
        """
        with self._lock:
            if self._leasing is None:
                self._leasing = LeasingBackend(DockerBackend())
            return self._leasing

    def adopt(self, rows: Sequence[Row], owners: Collection[str]) -> dict[str, Sandbox]:
        """Take over what an earlier server left in containers, and remove the rest of that.

        Args:
            rows: What it had, as far as it is to be taken over.
            owners: Which processes the earlier servers were.

        Returns:
            The sandboxes by their ids; those that are gone are not among them.
        """
        leasing = self.leasing()
        adopted = {}
        for row in rows:
            try:
                spec, container = leasing.adopt(row.info["inner"], stopped=row.state == "stopped")
            except RockGymError as error:
                _log.warning("%s is not to be had any more: %s", row.id, error)
                continue
            adopted[row.id] = Sandbox(leasing, spec, container)
            if row.state == "stopped":
                adopted[row.id].stop()
        leasing.remove_left(owners, {sandbox.id for sandbox in adopted.values()})
        return adopted

    def renew(self) -> None:
        """Put off the end of containers that outlive a killed server."""
        with self._lock:
            leasing = self._leasing
        if leasing is not None:
            leasing.renew()

    def spares(self) -> list[str]:
        """Return the backend of each spare that waits."""
        with self._lock:
            shelves = list(self._shelves.values())
        return [
            shelf.pool.backend for shelf in shelves for _ in range(shelf.pool.statistics().idle)
        ]

    def close_pools(self) -> None:
        """Start nothing any more, and end all spares. Starts that wait for their turn fail."""
        with self._lock:
            self._closed = True
            shelves, self._shelves = self._shelves, OrderedDict()
        for shelf in shelves.values():
            shelf.pool.close()

    def close(self) -> None:
        """Let go of the engine. Containers that may outlive the server do so, if any is left."""
        self.close_pools()
        with self._lock:
            leasing, self._leasing = self._leasing, None
        if leasing is not None:
            leasing.close()


def _agreed(name: str, parse: Callable[[Amount], N], *given: Amount | None) -> N | None:
    """Return the one value that was given, however often."""
    values = {parse(value) for value in given if value is not None}
    if len(values) > 1:
        raise SpecError(
            f"{name} is given twice and differently: {sorted(values)}; send it either in "
            "resources or beside it"
        )
    return values.pop() if values else None


def _refuse_what_is_not_here(request: StartRequest) -> None:
    if request.image_os.casefold() != "linux":
        raise SpecError(f"sandboxes are Linux, not {request.image_os[:40]!r}")
    if request.use_kata_runtime:
        raise SpecError("there is no Kata runtime here; leave use_kata_runtime out")
    if request.num_gpus or request.accelerator_type:
        raise SpecError("this server's sandboxes have no GPUs; leave num_gpus out")
    if request.auto_archive_seconds is not None:
        raise SpecError("sandboxes are not archived here; commit one, or pass auto_delete_seconds")
