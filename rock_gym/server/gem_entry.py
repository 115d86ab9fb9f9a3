"""An environment or a batch as the registry has it, until it is closed or nobody uses it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from rock_gym.pool import SandboxPool
from rock_gym.sandbox import Sandbox
from rock_gym.server import views
from rock_gym.server.failures import Refused
from rock_gym.server.gem_batch import BatchEnv
from rock_gym.server.gem_loop_env import LoopEnv
from rock_gym.server.gem_threads import ThreadEnv
from rock_gym.server.state import ServerState
from rock_gym.spec import SandboxSpec
from rock_gym.status import Transition

__all__ = ["GemEntry", "Playable"]

P = ParamSpec("P")
R = TypeVar("R")

Playable = LoopEnv | ThreadEnv | BatchEnv


class GemEntry:
    """An environment or a batch with an id. See ``Entry``.

    Args:
        entry_id: The id.
        server: What the server's parts share.
        env: What is played.
        gem_ids: The GEM id of each environment.
        pool: Where its sandboxes come from.
        spec: What they are asked to be.
        idle_s: After how long without use it is closed.

    Attributes:
        pool: Where its sandboxes come from.
        sessions: Names of sessions that clients have opened in its sandbox.
        lost_sessions: None: what is lost here is lost with the environment.
    """

    kind = "gem"

    def __init__(
        self,
        entry_id: str,
        server: ServerState,
        env: Playable,
        gem_ids: Sequence[str],
        pool: SandboxPool,
        spec: SandboxSpec,
        idle_s: float,
    ) -> None:
        self.id = entry_id
        self.env = env
        self._gem_ids = gem_ids
        self._server = server
        self.pool, self._spec = pool, spec
        self._idle_s = idle_s
        self._history = [Transition("pending", time.time(), "asked for")]
        self._timer: asyncio.TimerHandle | None = None
        self._deleting: asyncio.Task[None] | None = None
        self._uses = 0
        self._turns = asyncio.Semaphore(server.settings.calls_per_sandbox)
        self.sessions: set[str] = set()
        self.lost_sessions: set[str] = set()

    async def prepare(self, verify: bool) -> None:
        """Lease what it needs; see ``Served.prepare``."""
        await self.env.prepare(verify)
        self._history.append(Transition("running", time.time(), "made"))
        self.note()
        self._look_at(time.monotonic() + self._idle_s)

    def note(self) -> None:
        """Write down what the next server has to know of it."""
        self._server.registry.note(self, self.info())

    def info(self) -> dict[str, Any]:
        """Return what the next server has to know of it."""
        return {"gem_ids": sorted(set(self._gem_ids)), "num_envs": len(self._gem_ids)}

    @property
    def state(self) -> str:
        """See ``Entry.state``."""
        return self._history[-1].state

    def is_alive(self) -> bool:
        """See ``Entry.is_alive``."""
        return self.state == "running"

    async def status(self) -> dict[str, Any]:
        """See ``Entry.status``."""
        return views.status(
            views.View(
                id=self.id,
                state=self.state,
                is_alive=self.is_alive(),
                image=None,
                spec=self._spec,
                created_s=self._history[0].time_s,
                history=tuple(self._history),
                user={},
                failure=None,
                stops_s=time.time() + self._due_s() - time.monotonic(),
                deleted_s=None,
                more={"backend": self.pool.backend, **self.info()},
            )
        )

    def touch(self) -> None:
        """See ``Entry.touch``."""
        self.env.last_use_s = time.monotonic()

    async def use(
        self, function: Callable[Concatenate[Sandbox, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call something with its sandbox in a thread, when it is its turn to have one more.

        Raises:
            Refused: If it has no sandbox, or not to itself.
        """
        sandbox = self.env.sandbox
        if sandbox is None:
            raise Refused(
                f"{self.id} is an environment without a sandbox of its own, so it has neither "
                "commands nor files; use /apis/v1/envs/gem/, or make it with envs_per_sandbox=1",
                kind="wrong_kind",
                http=409,
            )
        async with self._turns:
            self._uses += 1
            try:
                return await self._server.threads.run(function, sandbox, *args, **kwargs)
            finally:
                self._uses -= 1
                self.touch()

    async def stop(self) -> None:
        """End it; see ``Entry.stop``. It has no files to keep."""
        await self.delete()

    async def delete(self) -> None:
        """See ``Entry.delete``."""
        await asyncio.shield(self._begin_to_delete("was closed"))

    def _begin_to_delete(self, how: str) -> asyncio.Task[None]:
        if self._deleting is None:
            self._server.registry.forget(self, how)
            self._history.append(Transition("deleted", time.time(), how))
            self._deleting = asyncio.create_task(self._delete(), name=f"close {self.id}")
        return self._deleting

    async def _delete(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._server.stopping:
            # What is under way ends by this, however long it might take otherwise.
            await self._server.threads.control(self.pool.close)
        await self.env.close()

    def _due_s(self) -> float:
        used_s = time.monotonic() if self.env.busy or self._uses else self.env.last_use_s
        return used_s + self._idle_s

    def _look_at(self, time_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            max(0.0, time_s - time.monotonic()), self._look
        )

    def _look(self) -> None:
        """Find out whether it has been idle for too long."""
        due_s = self._due_s()
        if due_s > time.monotonic():
            self._look_at(due_s)
        else:
            self._begin_to_delete(f"was closed, as nobody used it for {self._idle_s:g} s")
