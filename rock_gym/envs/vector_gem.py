"""Plays one GEM environment of a vector: its worker, the lease of one, and the next episode ahead.

Nothing here waits. A lease is a thread's work; a worker is asked, and answers on its socket.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from rock_gym.envs.gem_env import GemEnv
from rock_gym.envs.vector_leases import Lease, Leases
from rock_gym.envs.vector_poller import Listener
from rock_gym.envs.vector_slots import Fault
from rock_gym.envs.vector_speculation import Speculation
from rock_gym.errors import RockGymError, SandboxClosed, SandboxLost
from rock_gym.gem.packs import PackedWorker
from rock_gym.gem.worker import EnvWorker, ResetReply

__all__ = ["GemPlayer"]

_GONE = (SandboxLost, SandboxClosed)


class GemPlayer:
    """Plays a ``GemEnv`` by the halves of its calls.

    Args:
        number: What it is known by to the poller.
        env: The environment, which nobody else steps.
        poller: Told what to listen to.
        leases: Where workers come from.
        speculation: What prepares the next episode while this one is played, if it is to be.
        step_timeout_s: Seconds that a step may take.
        reset_timeout_s: Seconds that a lease may take, and then a reset.
    """

    # One of many is cold when its turn comes: what is in one place is there sooner.
    __slots__ = (
        "_fresh",
        "_lease",
        "_leases",
        "_listening",
        "_number",
        "_poller",
        "_reset_timeout_s",
        "_seed",
        "_speculation",
        "_step_limit_s",
        "_step_timeout_s",
        "_worker",
        "deadline",
        "env",
    )

    def __init__(
        self,
        number: int,
        env: GemEnv,
        poller: Listener,
        leases: Leases,
        speculation: Speculation | None,
        step_timeout_s: float | None,
        reset_timeout_s: float | None,
    ) -> None:
        self.env = env
        self.deadline = math.inf
        self._number = number
        self._poller = poller
        self._leases = leases
        self._speculation = speculation
        self._step_limit_s = math.inf if step_timeout_s is None else step_timeout_s
        self._step_timeout_s = step_timeout_s
        self._reset_timeout_s = reset_timeout_s
        self._worker: EnvWorker | PackedWorker | None = None
        self._listening: tuple[Any, int] = (None, 0)
        self._lease: Lease | None = None
        self._seed: int | None = None
        self._fresh = False

    def adopt(self, worker: EnvWorker) -> None:
        """Play by a worker that was leased ahead of the first reset, and is this player's now."""
        self._worker = worker
        self.env.adopt(worker)

    # Reset

    def send_reset(self, seed: int | None, options: dict[str, Any] | None) -> Fault | None:
        """Ask for a reset. Options mean nothing to GEM."""
        self._fresh = False
        self._seed = self.env.draw_seed(seed)
        worker = self._worker
        ahead = self._speculation
        if ahead is not None and worker is not None and ahead.matches(self._seed, seed is None):
            assert isinstance(worker, EnvWorker)
            self._worker = ahead.swap(worker)
            self.env.adopt(self._worker)
            self._listen(self._worker)
            self._begin_clock()
            # Its answer may have come before anybody listened; the poller says so at once.
            return None
        return self._ask()

    def _ask(self) -> Fault | None:
        worker = self._worker
        if worker is None:
            self._begin_lease()
            return None
        assert self._seed is not None
        try:
            worker.send_reset(self._seed)
        except _GONE as error:
            return self._ask_another(error)
        except RockGymError as error:
            return Fault(error)
        self._listen(worker)
        self._begin_clock()
        return None

    def _ask_another(self, error: RockGymError) -> Fault | None:
        """Lease another worker, unless this one was leased for the same reset."""
        self._drop()
        if self._fresh:
            return Fault(error)
        self._begin_lease()
        return None

    def _begin_lease(self) -> None:
        # The lease keeps its own time.
        self.deadline = math.inf
        if self._lease is None:
            post, number = self._poller.post, self._number
            self._lease = self._leases.request(self._lease_by(), lambda: post(number))

    def _lease_by(self) -> Callable[[], EnvWorker | PackedWorker]:
        """Return what leases a worker, in another thread, which must not keep this alive."""
        env, timeout_s = self.env, self._reset_timeout_s
        return lambda: env.lease(timeout_s, many=True)

    def _begin_clock(self) -> None:
        limit_s = math.inf if self._reset_timeout_s is None else self._reset_timeout_s
        self.deadline = time.monotonic() + limit_s

    def _listen(self, worker: Any) -> None:
        # By the count of its processes, as a new one's socket may have the old one's number.
        if self._listening != (worker, worker.forks):
            self._listening = (worker, worker.forks)
            self._poller.watch(self._number, worker.fileno())

    # Step

    def send_step(self, action: Any) -> Fault | None:
        """Ask for a step."""
        worker = self._worker
        assert worker is not None
        try:
            # A subclass of str, as numpy's is, is no value that can be sent.
            worker.send_step(action if type(action) is str else str(action))
        except RockGymError as error:
            return Fault(error)
        if self._listening[0] is None:
            self._listen(worker)
        self._seed = None
        self.deadline = time.monotonic() + self._step_limit_s
        return None

    # Answers

    def collect(self) -> Any:
        """Return what ``reset`` or ``step`` of the environment returns, a Fault, or None."""
        if self._lease is not None:
            return self._collect_lease()
        worker = self._worker
        if worker is None:
            return None
        try:
            reply = worker.try_receive()
            if reply is None:
                return None
            if self._seed is None:
                return self.env.stepped(reply)  # type: ignore[arg-type]
            assert isinstance(reply, ResetReply)
            return self._began(reply, self._seed)
        except _GONE as error:
            return self._ask_another(error) if self._seed is not None else Fault(error)
        except RockGymError as error:
            return self._ask_anew(error)

    def _collect_lease(self) -> Fault | None:
        assert self._lease is not None
        try:
            worker = self._lease.take()
        except RockGymError as error:
            self._lease = None
            return Fault(error)
        if worker is None:
            return None
        self._lease, self._fresh = None, True
        self._worker = worker
        self.env.adopt(worker)
        return self._ask()

    def _began(self, reply: ResetReply, seed: int) -> Any:
        result = self.env.began(reply, seed)
        if self._speculation is not None:
            worker = self._worker
            assert isinstance(worker, EnvWorker)
            self._speculation.prepare(worker, self.env.next_seed)
        return result

    def _ask_anew(self, error: RockGymError) -> Fault | None:
        """What failed ahead of time is asked for in time, as if nothing had been prepared."""
        ahead = self._speculation
        if self._seed is not None and ahead is not None and ahead.was_swapped():
            return self._ask()
        return Fault(error)

    def expire(self) -> Fault:
        """Kill the process that has taken too long."""
        worker = self._worker
        assert isinstance(worker, EnvWorker)
        try:
            worker.expire(self._reset_timeout_s if self._seed is not None else self._step_timeout_s)
        except RockGymError as error:
            return Fault(error)

    # Ends

    def recover(self, error: BaseException) -> None:
        """Have the next episode begin in a fresh sandbox, or process where sandboxes are shared.

        A process that was lost is forked anew by the next reset; what it may have done to a
        sandbox of its own would still be there.
        """
        self.deadline = math.inf
        worker = self._worker
        if worker is not None and (isinstance(error, _GONE) or worker.alone):
            self._drop()

    def ignore(self) -> None:
        """Stop listening until something is sent."""
        self._poller.ignore(self._number)
        self._listening = (None, 0)

    def _drop(self) -> None:
        self.ignore()
        if self._speculation is not None:
            self._speculation.close()
        worker, self._worker = self._worker, None
        self.env.adopt(None)
        if worker is not None:
            worker.close()

    def call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[float | None], Any]:
        """Call a method of the environment, or get its attribute, once that is waited for."""

        def result(_timeout_s: float | None) -> Any:
            value = self.env.get_wrapper_attr(name)
            return value(*args, **kwargs) if callable(value) else value

        return result

    def set_attr(self, name: str, value: Any) -> Callable[[float | None], Any]:
        """Set an attribute of the environment."""
        self.env.set_wrapper_attr(name, value)
        return lambda _timeout_s: None

    def join(self, timeout_s: float) -> None:
        """Nothing: what ``close`` does, it does at once."""

    def abandon(self) -> None:
        """Nothing: an environment that is forgotten says so itself, and gives its sandbox back."""

    def __repr__(self) -> str:
        return f"environment {self._number}, {self.env!r}"

    def close(self) -> None:
        """Give up everything. Twice is fine."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.abandon()
        self._drop()
        self.env.close()
