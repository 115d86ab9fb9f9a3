"""Makes environments and batches for clients, each with an id of its own."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from rock_gym.envs.arguments import check_directories
from rock_gym.envs.gem_env import GemEnv
from rock_gym.envs.vector_env import SandboxVectorEnv
from rock_gym.envs.vector_leases import Leases, at_once
from rock_gym.errors import SpecError
from rock_gym.gem import catalog
from rock_gym.gem.places import choose_backend, seats_per_sandbox
from rock_gym.pool import SandboxPool
from rock_gym.server.failures import Refused
from rock_gym.server.gem_batch import BatchEnv, InThreads, OnLoop
from rock_gym.server.gem_entry import GemEntry, Playable
from rock_gym.server.gem_loop import LoopListener
from rock_gym.server.gem_loop_env import LoopEnv
from rock_gym.server.gem_requests import MakeRequest
from rock_gym.server.gem_threads import ThreadEnv
from rock_gym.server.gem_turns import Limits
from rock_gym.server.state import ServerState
from rock_gym.spec import SandboxSpec

__all__ = ["GemEnvs"]

_JOIN_S = 5.0
# Clients may ask for any limits, and each kind of sandbox keeps one warm.
_KINDS = 4
# A batch of more keeps a thread busy for so long that the event loop should not be it.
_LARGE = 256
_REMEDY = (
    "ask gem/list which ids there are, or have the server started with --gem-import and the module "
    "that registers it"
)


class GemEnvs:
    """Makes environments. All methods are for the event loop.

    Args:
        state: The server's.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._listener: LoopListener | None = None
        self._leases = Leases(at_once(catalog.SHARED))
        self._numbers = itertools.count()
        self._pools: OrderedDict[SandboxSpec, SandboxPool] = OrderedDict()
        self._pool_lock = threading.Lock()
        state.on_stop(self._close)
        state.metrics.watch("rock_gym_envs", "Environments.", "kind", self._kinds)

    def _kinds(self) -> list[str]:
        return [
            "batch" if entry.env.batched else "single"
            for entry in self._entries()
            for _ in range(entry.env.size)
        ]

    def _entries(self) -> list[GemEntry]:
        return [entry for entry in self._state.registry if isinstance(entry, GemEntry)]

    async def make(self, request: MakeRequest) -> GemEntry:
        """Make an environment or a batch.

        Raises:
            SpecError: If there is no such environment, or an argument makes no sense.
            Refused: If there are too many.
            RockGymError: If nothing can run it, or it lacks something.
        """
        ids, batched = _ids_of(request)
        for gem_id in set(ids):
            _check_known(gem_id, self._state.settings.gem_imports)
        self._check_room(len(ids))
        spec = self._spec(request)
        pool = await self._pool(spec)
        minutes = request.auto_clear_time_minutes
        entry = GemEntry(
            self._state.registry.claim(),
            self._state,
            self._build(request, ids, batched, pool),
            ids,
            pool,
            spec,
            self._state.settings.idle_s if minutes is None else minutes * 60,
        )
        self._state.registry.add(entry, entry.info())
        try:
            await entry.prepare(any(map(_may_lack, ids)))
        except BaseException:
            await entry.delete()  # the client never learns its id
            raise
        return entry

    def _check_room(self, size: int) -> None:
        most = self._state.settings.max_sandboxes
        count = sum(entry.env.size for entry in self._entries())
        if count + size > most:
            raise Refused(
                f"there are {count} environments, and {most} is the most: close some, or start "
                "the server with a larger --max-sandboxes",
                kind="too_many",
                http=503,
            )

    def _spec(self, request: MakeRequest) -> SandboxSpec:
        return SandboxSpec.of(
            cpus=_one("cpus", request.cpus, "cpu", request),
            memory=_one("memory", request.memory, "memory", request),
            network=self._state.settings.network,
            read_only=check_directories("gem_path", self._state.settings.gem_path),
        )

    async def _pool(self, spec: SandboxSpec) -> SandboxPool:
        """Return the pool of a kind of sandbox; it is used by who asked until he waits again."""
        while spec not in self._pools:
            await self._state.threads.control(self._make_pool, spec)
            await self._end_unused()
        self._pools.move_to_end(spec)
        return self._pools[spec]

    async def _end_unused(self) -> None:
        """Keep the pools that were used last, and those that are in use."""
        used = {entry.pool for entry in self._entries()}
        unused = [spec for spec in list(self._pools)[:-_KINDS] if self._pools[spec] not in used]
        pools = [self._pools.pop(spec) for spec in unused]
        await asyncio.gather(*(self._state.threads.control(pool.close) for pool in pools))

    def _make_pool(self, spec: SandboxSpec) -> None:
        with self._pool_lock:
            if self._state.stopping:
                raise Refused("the server is shutting down", kind="shutting_down", http=503)
            if spec not in self._pools:
                name, full = choose_backend(spec, None, self._state.settings.backend)
                self._pools[spec] = SandboxPool.from_spec(full, backend=name)

    def _build(
        self, request: MakeRequest, ids: Sequence[str], batched: bool, pool: SandboxPool
    ) -> Playable:
        options: dict[str, Any] = {
            **_checked(request.kwargs),
            "pool": pool,
            "observation": request.observation,
            "step_timeout": request.step_timeout,
            "reset_timeout": request.reset_timeout,
            "envs_per_sandbox": request.envs_per_sandbox,
            "dataset": request.dataset,
            # Each environment's process imports them, so only those do that may be in them.
            "imports": () if all(map(catalog.find, ids)) else self._state.settings.gem_imports,
            "python_path": self._state.settings.gem_path,
        }
        threads = self._state.threads
        # Where processes run what actions say, even to find out that one is lost may take a moment.
        alone = any(seats_per_sandbox(name, request.envs_per_sandbox) == 1 for name in set(ids))
        if batched:
            way = InThreads(threads.run) if alone or len(ids) > _LARGE else OnLoop()
            return BatchEnv(_vector(request, ids, options), len(ids), threads.run, way)
        limits = Limits(request.step_timeout, request.reset_timeout)
        env = GemEnv(ids[0], **options)
        if alone:
            return ThreadEnv(env, threads.run, limits)
        if self._listener is None:
            self._listener = LoopListener()
        number = next(self._numbers)
        return LoopEnv(env, number, self._listener, self._leases, limits, threads.control)

    async def _close(self) -> None:
        """End all sandboxes. The environments have been closed by now."""
        control = self._state.threads.control
        with self._pool_lock:
            pools = list(self._pools.values())
        await asyncio.gather(*(control(pool.close) for pool in pools))
        await control(self._leases.join, _JOIN_S)


def _ids_of(request: MakeRequest) -> tuple[list[str], bool]:
    """Return the GEM id of each environment, and whether they make a batch."""
    batched = request.num_envs is not None or request.env_ids is not None
    if (request.env_id is None) == (request.env_ids is None):
        raise SpecError("give either env_id or, for a batch, env_ids")
    if request.env_id is not None:
        if not batched:
            _check_single(request)
        ids = [request.env_id] * (request.num_envs or 1)
    else:
        assert request.env_ids is not None
        ids = [gem_id for gem_id in request.env_ids for _ in range(request.group_size)]
        if request.num_envs not in (None, len(ids)):
            raise SpecError(
                f"num_envs is {request.num_envs}, and env_ids makes {len(ids)}: leave one out"
            )
    if len(ids) % request.group_size:
        raise SpecError(f"group_size={request.group_size} does not divide {len(ids)} environments")
    return ids, batched


def _check_known(gem_id: str, imports: Sequence[str]) -> None:
    """Refuse an id that GEM does not ship, and no module of the operator's can have registered."""
    catalog.check_known(gem_id, _REMEDY)
    if catalog.find(gem_id) is None and not imports:
        raise SpecError(f"GEM has no {gem_id[:80]!r}: {_REMEDY}")


def _check_single(request: MakeRequest) -> None:
    plain = MakeRequest()
    for name in ("group_size", "autoreset_mode", "max_episode_steps", "envs_per_process"):
        if getattr(request, name) != getattr(plain, name):
            raise SpecError(f"{name} is for batches: give num_envs as well")


def _may_lack(gem_id: str) -> bool:
    """Whether it may lack something, which GEM says at the first reset only."""
    record = catalog.find(gem_id)
    return record is None or record.needs is not None


def _checked(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return what goes on to GEM, which must not be taken for an argument of ours."""
    ours = set(GemEnv.__init__.__kwdefaults__ or ()) | {"gem_id", "self"}
    for name in kwargs:
        if name in ours:
            raise SpecError(
                f"kwargs go on to GEM, and {name} is not for GEM: give it beside env_id, if "
                "gem/make has a field of that name"
            )
    return kwargs


def _one(name: str, flat: Any, nested: str, request: MakeRequest) -> Any:
    """Return a ceiling that may be given in two places."""
    other = None if request.resources is None else getattr(request.resources, nested)
    if flat is not None and other is not None and str(flat) != str(other):
        raise SpecError(f"{name} is {flat!r}, and resources.{nested} is {other!r}: leave one out")
    return other if flat is None else flat


def _vector(
    request: MakeRequest, ids: Sequence[str], options: dict[str, Any]
) -> Callable[[], SandboxVectorEnv]:
    def make() -> SandboxVectorEnv:
        return SandboxVectorEnv(
            gem_ids=list(ids),
            num_envs=len(ids),
            group_size=request.group_size,
            autoreset_mode=request.autoreset_mode,
            max_episode_steps=request.max_episode_steps,
            envs_per_process=request.envs_per_process,
            **options,
        )

    return make
