"""Environments played by threads: those whose processes run what actions say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rock_gym.envs.gem_env import GemEnv
from rock_gym.sandbox import Sandbox
from rock_gym.server.gem_turns import Limits, OneCall, Run, reset_needed, turn

__all__ = ["ThreadEnv"]


class ThreadEnv(OneCall):
    """One environment that has its sandbox to itself; see ``LoopEnv``.

    Args:
        env: The environment, which is this object's from now on.
        run: Runs a call in a thread.
        limits: What its calls may take, which the environment knows too.
    """

    size = 1
    batched = False

    def __init__(self, env: GemEnv, run: Run, limits: Limits) -> None:
        super().__init__()
        self._env, self._run, self._limits = env, run, limits
        self._over = False

    @property
    def sandbox(self) -> Sandbox | None:
        """See ``Served.sandbox``."""
        worker = self._env.worker
        return worker.sandbox if worker is not None and worker.alone else None

    async def prepare(self, verify: bool) -> None:
        """See ``Served.prepare``."""
        await self._call(lambda: self._env.adopt(self._env.lease(self._limits.reset_s)))
        if verify:
            await self._call(lambda: self._env.reset(seed=0))
            self._over = True

    async def reset(self, seed: int | None) -> dict[str, Any]:
        """Begin an episode; raises as ``GemEnv.reset``."""
        observation, info = await self._call(lambda: self._env.reset(seed=seed))
        return {"observation": observation, "info": info}

    async def step(self, action: str) -> dict[str, Any]:
        """Take a turn; raises as ``LoopEnv.step``."""
        if not self._env.playing and not self.busy:
            raise reset_needed(self._over)
        result = await self._call(lambda: self._env.step(action))
        self._over = result[2] or result[3]
        return turn(*result)

    async def _call(self, function: Callable[[], Any]) -> Any:
        return await self._alone(lambda: self._run(function))

    async def close(self) -> None:
        """See ``Served.close``. A call that is under way ends by it."""
        self._closed = True
        worker = self._env.worker
        if worker is not None:
            await self._run(worker.close)
        async with self._lock:
            await self._run(self._env.close)
