"""One GEM environment on the event loop: its process is asked, and heard by its socket.

For environments that only parse what an action says. Where a process runs it, even to find out that
a sandbox is lost may take a moment, so those are played by threads: see ``gem_threads``.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from rock_gym.envs.gem_env import GemEnv
from rock_gym.envs.misuse import EnvClosed
from rock_gym.envs.vector_gem import GemPlayer
from rock_gym.envs.vector_leases import Leases
from rock_gym.envs.vector_slots import Fault
from rock_gym.gem.worker import EnvWorker
from rock_gym.server.failures import Refused
from rock_gym.server.gem_loop import LoopListener
from rock_gym.server.gem_turns import Limits, Run, busy, reset_needed, turn

__all__ = ["LoopEnv"]


class LoopEnv:
    """One environment. All methods are for the event loop.

    Calls that come while another is under way are refused, but for a reset, which gives up what
    was under way, and ``close``.

    Args:
        env: The environment, which is this object's from now on.
        number: What it is known by to the listener.
        listener: Hears it.
        leases: Lease its process.
        limits: What its calls may take.
        run: Runs in a thread what may take a moment.
    """

    size = 1
    batched = False
    sandbox = None

    def __init__(
        self,
        env: GemEnv,
        number: int,
        listener: LoopListener,
        leases: Leases,
        limits: Limits,
        run: Run,
    ) -> None:
        self.last_use_s = time.monotonic()
        self._env, self._number, self._run = env, number, run
        self._listener, self._leases, self._limits = listener, leases, limits
        self._player = GemPlayer(number, env, listener, leases, None, limits.step_s, limits.reset_s)
        self._answer: asyncio.Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._playing = self._over = False
        listener.add(number, self._heard)

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._answer is not None

    async def prepare(self, verify: bool) -> None:
        """See ``Served.prepare``: leases a process."""
        # As a call that is under way, which `close` ends.
        there = self._answer = self._listener.loop.create_future()
        env, timeout_s, number = self._env, self._limits.reset_s, self._number

        def tell() -> None:
            if not there.done():
                there.set_result(None)

        self._listener.add(number, tell)
        lease = self._leases.request(
            lambda: env.lease(timeout_s, many=True), lambda: self._listener.post(number)
        )
        try:
            await there
        except BaseException:
            lease.abandon()
            raise
        self._answer = None
        self._listener.add(number, self._heard)
        worker = lease.take()
        assert isinstance(worker, EnvWorker)
        self._player.adopt(worker)
        if verify:
            await self.reset(0)
            self._playing = False

    async def reset(self, seed: int | None) -> dict[str, Any]:
        """Begin an episode.

        Raises:
            RockGymError: As ``GemEnv.reset``.
        """
        self._give_up(Refused("a reset came meanwhile", kind="given_up", http=409))
        self._playing = self._over = False
        observation, info = await self._sent(self._player.send_reset(seed, None))
        self._playing = True
        return {"observation": observation, "info": info}

    async def step(self, action: str) -> dict[str, Any]:
        """Take a turn.

        Raises:
            ResetNeeded: If no episode is under way.
            Refused: If another call is.
            RockGymError: As ``GemEnv.step``; the episode is over then.
        """
        if self._answer is not None:
            raise busy()
        if not self._playing:
            raise reset_needed(self._over)
        self._playing = False
        observation, reward, terminated, truncated, info = await self._sent(
            self._player.send_step(action)
        )
        self._over = terminated or truncated
        self._playing = not self._over
        return turn(observation, reward, terminated, truncated, info)

    async def close(self) -> None:
        """See ``Served.close``."""
        self._give_up(EnvClosed("the environment was closed meanwhile: make a new one"))
        self._listener.remove(self._number)
        if self._timer is not None:
            self._timer.cancel()
        # Nothing is listened to any more, so that nothing of the loop is touched over there.
        await self._run(self._player.close)

    # Inside

    def _sent(self, fault: Fault | None) -> asyncio.Future[Any]:
        """Return what waits for the answer to what was sent, unless it could not be sent."""
        self.last_use_s = time.monotonic()
        if fault is not None:
            self._recover(fault.error)
            raise fault.error
        answer = self._answer = self._listener.loop.create_future()
        if self._player.deadline < self._due:
            self._set_timer()
        return answer

    def _heard(self) -> None:
        """Take in what has come."""
        answer = self._answer
        if answer is None:
            # Its end, most likely, which would be told again and again.
            self._player.ignore()
            return
        try:
            result = self._player.collect()
        except Exception as error:  # raised again by who waits for it
            result = Fault(error)
        if result is not None:
            self._settle(result)
        elif self._player.deadline < self._due:
            self._set_timer()

    def _settle(self, result: Any) -> None:
        answer, self._answer = self._answer, None
        self.last_use_s = time.monotonic()
        if type(result) is Fault:
            self._recover(result.error)
        if answer is None or answer.done():
            return
        if type(result) is Fault:
            answer.set_exception(result.error)
        else:
            answer.set_result(result)

    def _recover(self, error: BaseException) -> None:
        self._playing = False
        # Its socket may have been closed, so the loop must not listen to that number any more.
        self._player.ignore()
        self._player.recover(error)

    def _give_up(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)

    # One timer serves many steps: each step's limit ends later than that of the step before.

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._player.deadline
        self._timer = self._listener.loop.call_later(
            max(self._due - time.monotonic(), 0.0), self._on_time
        )

    def _on_time(self) -> None:
        self._timer, self._due = None, math.inf
        if self._answer is None or self._player.deadline == math.inf:
            return
        if self._player.deadline > time.monotonic():
            self._set_timer()
            return
        # Timers may go before what has come, and whoever has answered is not late.
        self._heard()
        if self._answer is not None and self._player.deadline <= time.monotonic():
            self._settle(self._player.expire())
