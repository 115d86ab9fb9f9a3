"""Plays GEM environments of a vector that share processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rock_gym.envs.gem_env import GemEnv
from rock_gym.envs.vector_gem import GemPlayer
from rock_gym.envs.vector_leases import Leases
from rock_gym.envs.vector_poller import Poller
from rock_gym.envs.vector_slots import Fault
from rock_gym.errors import RockGymError
from rock_gym.gem.config import EnvConfig
from rock_gym.gem.packs import Pack, PackedWorker, lease_pack
from rock_gym.pool import SandboxPool

__all__ = ["Crew", "PackedPlayer"]


class Crew:
    """What the players of one process have in common.

    Args:
        poller: Told what to listen to.
        packs_per_sandbox: How many processes may share a sandbox.
        step_timeout_s: Seconds that a step may take.
        reset_timeout_s: Seconds that a reset may take.
    """

    def __init__(
        self,
        poller: Poller,
        packs_per_sandbox: int,
        step_timeout_s: float | None,
        reset_timeout_s: float | None,
    ) -> None:
        self._poller = poller
        self._packs_per_sandbox = packs_per_sandbox
        self._limits = {"step": step_timeout_s, "reset": reset_timeout_s}
        self._lock = threading.Lock()
        self._pack: Pack | None = None
        self._listening: tuple[Pack | None, int] = (None, 0)

    def lease(self, number: int, env: GemEnv, timeout_s: float | None) -> PackedWorker:
        """Lease a place in the process, which the first of them has begun. From any thread."""

        def begin(config: EnvConfig, pool: SandboxPool) -> Pack:
            return lease_pack(
                config, pool, self._packs_per_sandbox, timeout_s, self._limits, self._poller.post
            )

        config = replace(env.config, many=True)
        with self._lock:
            while True:
                if self._pack is None or not self._pack.is_alive:
                    self._pack = env.lease_with(begin)
                worker = self._pack.join(number, config)
                if worker is not None:
                    return worker
                self._pack = None

    def listen(self) -> None:
        """Listen to the process that plays now."""
        pack = self._pack
        assert pack is not None
        listening = pack, pack.forks
        if self._listening != listening:
            if self._listening[0] is not None:
                self._poller.forget_source(self._listening[0])
            self._listening = listening
            self._poller.watch_source(pack)


class PackedPlayer(GemPlayer):
    """Plays a ``GemEnv`` that shares its process.

    Args:
        number: What it is known by to the poller, and to the process.
        env: The environment, which nobody else steps.
        poller: Told what to listen to.
        leases: Where workers come from.
        crew: What it shares with others.
        reset_timeout_s: Seconds that a lease may take.
    """

    __slots__ = ("_crew", "_own_deadline")

    def __init__(
        self,
        number: int,
        env: GemEnv,
        poller: Poller,
        leases: Leases,
        crew: Crew,
        reset_timeout_s: float | None,
    ) -> None:
        self._crew = crew
        super().__init__(number, env, poller, leases, None, None, reset_timeout_s)

    @property
    def deadline(self) -> float:
        """When what its process is at will have taken too long."""
        worker = self._worker
        if worker is None:
            return self._own_deadline
        assert isinstance(worker, PackedWorker)
        return worker.pack.deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._own_deadline = value

    def _lease_by(self) -> Callable[[], PackedWorker]:
        crew, number, env, timeout_s = self._crew, self._number, self.env, self._reset_timeout_s
        return lambda: crew.lease(number, env, timeout_s)

    def _listen(self, worker: Any) -> None:
        self._crew.listen()

    def send_step(self, action: Any) -> Fault | None:
        """Ask for a step."""
        worker = self._worker
        assert worker is not None
        try:
            worker.send_step(action if type(action) is str else str(action))
        except RockGymError as error:
            return Fault(error)
        self._seed = None
        return None

    def expire(self) -> Fault:
        """Kill the process if nobody has yet."""
        worker = self._worker
        assert isinstance(worker, PackedWorker)
        try:
            worker.expire()
        except RockGymError as error:
            return Fault(error)

    def ignore(self) -> None:
        """Nothing: what comes is sorted by its process's own answers."""
