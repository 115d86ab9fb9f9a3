"""A batch: environments that are stepped together, on the event loop or by a thread."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from rock_gym.envs.vector_env import SandboxVectorEnv
from rock_gym.envs.vector_turns import Turn
from rock_gym.errors import SpecError
from rock_gym.server.encode import encode
from rock_gym.server.gem_turns import OneCall, Run, reset_needed, turn

__all__ = ["BatchEnv", "InThreads", "OnLoop"]

Begin = Callable[[SandboxVectorEnv], Turn]
Finish = Callable[[Any], bytes]


class Way(Protocol):
    """How it is waited for what a batch was asked."""

    async def play(self, envs: SandboxVectorEnv, begin: Begin, finish: Finish) -> bytes:
        """Begin something, wait until it is there, and finish it."""

    def leave(self, envs: SandboxVectorEnv) -> None:
        """Stop to listen to a vector, as it will be closed."""


class InThreads:
    """By a thread: for batches so large that the loop should do something else meanwhile.

    Args:
        run: Runs a call in a thread.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    async def play(self, envs: SandboxVectorEnv, begin: Begin, finish: Finish) -> bytes:
        """See ``Way.play``."""
        made: bytes = await self._run(lambda: finish(envs.finish(begin(envs))))
        return made

    def leave(self, envs: SandboxVectorEnv) -> None:
        """See ``Way.leave``."""


class OnLoop:
    """By the event loop, which spares two changes of threads in each turn. For one batch."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = False
        self._waiting: tuple[Turn, asyncio.Future[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = math.inf

    async def play(self, envs: SandboxVectorEnv, begin: Begin, finish: Finish) -> bytes:
        """See ``Way.play``."""
        if not self._listening:
            self._loop.add_reader(envs.fileno(), self._heard, envs)
            self._listening = True
        turn = begin(envs)
        if not turn.is_there():
            there = self._loop.create_future()
            self._waiting = turn, there
            self._keep_time(envs)
            try:
                await there
            finally:
                self._waiting = None
        return finish(turn.take())

    def _heard(self, envs: SandboxVectorEnv) -> None:
        waiting = self._waiting
        if waiting is None or waiting[1].done():
            envs.take_in()
        else:
            turn, there = waiting
            try:
                envs.take_in()
            except Exception as error:  # raised again by who waits for it
                there.set_exception(error)
                return
            if turn.is_there():
                there.set_result(None)
        self._keep_time(envs)

    # One timer serves many turns: each one's limit ends later than that of the one before.

    def _keep_time(self, envs: SandboxVectorEnv) -> None:
        if envs.due_s >= self._due_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = envs.due_s
        left_s = max(self._due_s - time.monotonic(), 0.0)
        self._timer = self._loop.call_later(left_s, self._on_time, envs)

    def _on_time(self, envs: SandboxVectorEnv) -> None:
        self._timer, self._due_s = None, math.inf
        self._heard(envs)

    def leave(self, envs: SandboxVectorEnv) -> None:
        """See ``Way.leave``."""
        if self._listening:
            self._loop.remove_reader(envs.fileno())
            self._listening = False
        if self._timer is not None:
            self._timer.cancel()


class BatchEnv(OneCall):
    """Environments that are stepped together. Answers are JSON already.

    Args:
        make: Makes the environments, in a thread.
        size: How many they are.
        run: Runs a call in a thread.
        way: How its turns are waited for.
    """

    batched = True
    sandbox = None

    def __init__(self, make: Callable[[], SandboxVectorEnv], size: int, run: Run, way: Way) -> None:
        super().__init__()
        self.size = size
        self._make, self._run, self._way = make, run, way
        self._envs: SandboxVectorEnv | None = None
        # What stops all environments leaves some of them with answers that nobody received.
        self._begun = False

    async def prepare(self, verify: bool) -> None:
        """See ``Served.prepare``."""
        self._envs = await self._alone(lambda: self._run(self._make))
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
        return await self._alone(lambda: self._reset(self._seeds(seed, env_ids), env_ids))

    async def _reset(self, seeds: Any, env_ids: Sequence[int] | None) -> msgspec.Raw:
        if env_ids is None:
            return await self._play(
                lambda envs: envs.begin_reset(seeds),
                lambda reset: {"observation": reset[0], "info": reset[1]},
            )
        self._check_begun()

        def begin(envs: SandboxVectorEnv) -> Turn:
            envs.send_reset(env_ids, seed=seeds)
            return envs.begin_recv()

        return await self._play(begin, lambda row: {"observation": row[0], "info": row[-1]})

    async def step(self, actions: Sequence[str], env_ids: Sequence[int] | None) -> msgspec.Raw:
        """Take a turn in all environments, or in some.

        Raises:
            ResetNeeded: If they were not reset yet.
            SpecError: If an argument makes no sense.
            RockGymError: As ``SandboxVectorEnv.step``.
        """
        return await self._alone(lambda: self._step(actions, env_ids))

    async def _step(self, actions: Sequence[str], env_ids: Sequence[int] | None) -> msgspec.Raw:
        self._check_begun()

        def begin(envs: SandboxVectorEnv) -> Turn:
            if env_ids is None and len(actions) == self.size:
                return envs.begin_step(actions)
            envs.send(actions, env_ids)
            return envs.begin_recv()

        return await self._play(begin, lambda batch: turn(*batch))

    async def _play(self, begin: Begin, shape: Callable[[Any], dict[str, Any]]) -> msgspec.Raw:
        envs = self._envs
        assert envs is not None

        def begun(envs: SandboxVectorEnv) -> Turn:
            turn = begin(envs)  # or nothing was sent
            self._begun = False
            return turn

        made = await self._way.play(envs, begun, lambda result: encode(shape(result)))
        self._begun = True
        return msgspec.Raw(made)

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
                self._way.leave(envs)
                await self._run(envs.close)
