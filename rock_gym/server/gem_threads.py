"""Environments played by threads: batches, and those whose processes run what actions say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rock_gym.envs.gem_env import GemEnv
from rock_gym.envs.misuse import EnvClosed, EpisodeOver
from rock_gym.envs.vector_env import SandboxVectorEnv
from rock_gym.errors import SpecError
from rock_gym.sandbox import Sandbox
from rock_gym.server.encode import encode
from rock_gym.server.gem_turns import Limits, Run, busy, reset_needed, turn

__all__ = ["BatchEnv", "ThreadEnv"]


class _Threaded:
    """One call at a time, in a thread.

    Args:
        run: Runs a call in a thread.
    """

    def __init__(self, run: Run) -> None:
        self.last_use_s = time.monotonic()
        self._run = run
        self._lock = asyncio.Lock()
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._lock.locked()

    async def _call(self, function: Callable[[], Any]) -> Any:
        if self._lock.locked():
            raise busy()
        async with self._lock:
            if self._closed:
                raise EnvClosed("the environment was closed meanwhile: make a new one")
            self.last_use_s = time.monotonic()
            try:
                return await self._run(function)
            finally:
                self.last_use_s = time.monotonic()


class ThreadEnv(_Threaded):
    """One environment that has its sandbox to itself; see ``LoopEnv``.

    Args:
        env: The environment, which is this object's from now on.
        run: Runs a call in a thread.
        limits: What its calls may take, which the environment knows too.
    """

    size = 1
    batched = False

    def __init__(self, env: GemEnv, run: Run, limits: Limits) -> None:
        super().__init__(run)
        self._env, self._limits = env, limits
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

    async def close(self) -> None:
        """See ``Served.close``. A call that is under way ends by it."""
        self._closed = True
        worker = self._env.worker
        if worker is not None:
            await self._run(worker.close)
        async with self._lock:
            await self._run(self._env.close)


class BatchEnv(_Threaded):
    """Environments that are stepped together. Answers are JSON already, made by the thread.

    Args:
        make: Makes the environments, in a thread.
        size: How many they are.
        run: Runs a call in a thread.
    """

    batched = True
    sandbox = None

    def __init__(self, make: Callable[[], SandboxVectorEnv], size: int, run: Run) -> None:
        super().__init__(run)
        self.size = size
        self._make = make
        self._envs: SandboxVectorEnv | None = None
        # What stops all environments leaves some of them with answers that nobody received.
        self._begun = False

    async def prepare(self, verify: bool) -> None:
        """See ``Served.prepare``."""
        self._envs = await self._call(self._make)
        if verify:
            await self.reset(0, None)
            self._begun = False

    async def reset(self, seed: Any, env_ids: Sequence[int] | None) -> msgspec.Raw:
        """Begin an episode in all environments, or in some.

        Args:
            seed: As ``SandboxVectorEnv.reset``; a list has one for each that is reset.
            env_ids: Their numbers; None for all.

        Raises:
            SpecError: If an argument makes no sense.
            RockGymError: As ``SandboxVectorEnv.reset``.
        """
        made: msgspec.Raw = await self._call(lambda: self._reset(seed, env_ids))
        return made

    def _reset(self, seed: Any, env_ids: Sequence[int] | None) -> msgspec.Raw:
        envs = self._envs
        assert envs is not None
        seeds = self._seeds(seed, env_ids)
        if env_ids is None:
            self._begun = False
            observation, info = envs.reset(seed=seeds)
            self._begun = True
        else:
            self._check_begun()
            envs.send_reset(env_ids, seed=seeds)
            observation, *_, info = self._received(envs)
        return msgspec.Raw(encode({"observation": observation, "info": info}))

    async def step(self, actions: Sequence[str], env_ids: Sequence[int] | None) -> msgspec.Raw:
        """Take a turn in all environments, or in some.

        Raises:
            ResetNeeded: If they were not reset yet.
            SpecError: If an argument makes no sense.
            RockGymError: As ``SandboxVectorEnv.step``.
        """
        made: msgspec.Raw = await self._call(lambda: self._step(actions, env_ids))
        return made

    def _step(self, actions: Sequence[str], env_ids: Sequence[int] | None) -> msgspec.Raw:
        envs = self._envs
        assert envs is not None
        self._check_begun()
        if env_ids is None and len(actions) == self.size:
            batch = self._guarded(lambda: envs.step(actions))
        else:
            envs.send(actions, env_ids)
            batch = self._received(envs)
        return msgspec.Raw(encode(turn(*batch)))

    def _received(self, envs: SandboxVectorEnv) -> Any:
        return self._guarded(envs.recv)

    def _guarded(self, call: Callable[[], Any]) -> Any:
        self._begun = False
        try:
            result = call()
        except EpisodeOver:  # and so nothing was sent
            self._begun = True
            raise
        self._begun = True
        return result

    def _check_begun(self) -> None:
        if not self._begun:
            raise reset_needed(False)

    def _seeds(self, seed: Any, env_ids: Sequence[int] | None) -> Any:
        if not isinstance(seed, list):
            return seed
        if len(seed) != (self.size if env_ids is None else len(env_ids)):
            raise SpecError("a list of seeds must have one for each environment that is reset")
        if env_ids is None:
            return seed
        spread: list[int | None] = [None] * self.size
        for number, value in zip(env_ids, seed, strict=True):
            if 0 <= number < self.size:  # or else it is refused with the numbers
                spread[number] = value
        return spread

    async def close(self) -> None:
        """See ``Served.close``. A call that is under way is waited for, until its limit."""
        self._closed = True
        async with self._lock:
            envs, self._envs = self._envs, None
            if envs is not None:
                await self._run(envs.close)
