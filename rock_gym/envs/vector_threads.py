"""Plays any gymnasium environment of a vector, in a thread of its own.

An environment is made, stepped, rendered and closed by one and the same thread, as those that hold
a window, a database or a browser demand. A thread cannot be killed: where a call outlives its
limit, thread and environment are left behind, and the environment is made anew in another.
"""

from __future__ import annotations

import contextlib
import copy
import math
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from rock_gym.envs.vector_poller import Poller
from rock_gym.envs.vector_slots import Fault
from rock_gym.errors import ResetTimeout, StepTimeout

__all__ = ["ThreadPlayer"]


class _Task:
    """A call for a thread, and what came of it."""

    __slots__ = ("_function", "_posted", "outcome", "ready")

    def __init__(self, function: Callable[[], Any], posted: Callable[[], None]) -> None:
        self._function = function
        self._posted = posted
        self.ready = False
        self.outcome: Any = None

    def run(self) -> None:
        try:
            self.outcome = self._function()
        except BaseException as error:  # raised again, or reported, by who asked
            self.outcome = Fault(error)
        self.ready = True
        self._posted()


class _Host:
    """A thread with an environment in it."""

    def __init__(self, name: str) -> None:
        self.env: gym.Env[Any, Any] | None = None
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=_serve, args=(self._tasks,), name=name, daemon=True)
        self.thread.start()

    def submit(self, function: Callable[[], Any], posted: Callable[[], None]) -> _Task:
        task = _Task(function, posted)
        self._tasks.put(task)
        return task

    def ask(self, function: Callable[[], Any]) -> Callable[[float | None], Any]:
        """Begin a call; returns what waits for its result."""
        done = threading.Event()
        task = self.submit(function, done.set)

        def result(timeout_s: float | None) -> Any:
            if not done.wait(timeout_s):
                raise multiprocessing.TimeoutError
            if isinstance(task.outcome, Fault):
                raise task.outcome.error
            return task.outcome

        return result

    def stop(self) -> None:
        self._tasks.put(None)


def _serve(tasks: queue.SimpleQueue[_Task | None]) -> None:
    # The names are let go of before the next wait, or they would keep an environment alive.
    while (task := tasks.get()) is not None:
        task.run()
        del task


class ThreadPlayer:
    """Plays the environment that a function makes.

    Args:
        number: What it is known by to the poller.
        env_fn: Makes the environment.
        poller: Told when there is an answer.
        gate: Held during a reset or a step, to limit how many run at once; or None.
        step_timeout_s: Seconds that a step may take.
        reset_timeout_s: Seconds that a reset may take.

    Raises:
        Exception: Whatever ``env_fn`` raises.
    """

    def __init__(
        self,
        number: int,
        env_fn: Callable[[], gym.Env[Any, Any]],
        poller: Poller,
        gate: threading.Semaphore | None,
        step_timeout_s: float | None,
        reset_timeout_s: float | None,
    ) -> None:
        self.deadline = math.inf
        self._number = number
        self._env_fn = env_fn
        self._poller = poller
        self._gate = gate
        self._step_timeout_s = math.inf if step_timeout_s is None else step_timeout_s
        self._reset_timeout_s = math.inf if reset_timeout_s is None else reset_timeout_s
        self._task: _Task | None = None
        self._stepping = False
        self._host = self._new_host()
        try:
            self._host.env = self._host.ask(env_fn)(None)
        except BaseException:
            self._host.stop()
            raise

    @property
    def env(self) -> gym.Env[Any, Any]:
        """The environment."""
        env = self._host.env
        assert env is not None
        return env

    def send_reset(self, seed: int | None, options: dict[str, Any] | None) -> Fault | None:
        """Ask for a reset."""
        # Each environment may do as it likes with its own.
        options = copy.copy(options)
        self._submit(False, lambda env: env.reset(seed=seed, options=options))
        self.deadline = time.monotonic() + self._reset_timeout_s
        return None

    def send_step(self, action: Any) -> Fault | None:
        """Ask for a step."""
        self._submit(True, lambda env: env.step(action))
        self.deadline = time.monotonic() + self._step_timeout_s
        return None

    def _submit(self, stepping: bool, call: Callable[[gym.Env[Any, Any]], Any]) -> None:
        host, gate, make, number, post = (
            self._host,
            self._gate,
            self._env_fn,
            self._number,
            self._poller.post,
        )

        def run() -> Any:
            with gate or contextlib.nullcontext():
                if host.env is None:
                    host.env = make()
                return call(host.env)

        self._stepping = stepping
        # What was asked before and is given up still runs first, but nobody looks at its answer.
        self._task = host.submit(run, lambda: post(number))

    def collect(self) -> Any:
        """Return what the environment's method returned, a Fault, or None for not yet."""
        task = self._task
        if task is None or not task.ready:
            return None
        self._task = None
        return task.outcome

    def expire(self) -> Fault:
        """Leave thread and environment behind: there is no way to stop them."""
        kind, what = (StepTimeout, "step") if self._stepping else (ResetTimeout, "reset")
        limit_s = self._step_timeout_s if self._stepping else self._reset_timeout_s
        self._task = None
        self._host.stop()
        self._host = self._new_host()
        return Fault(
            kind(f"the {what} of environment {self._number} took longer than {limit_s:g} s")
        )

    def _new_host(self) -> _Host:
        return _Host(f"rock-gym-env-{self._number}")

    def ignore(self) -> None:
        """Nothing: a late answer comes once."""

    def recover(self, error: BaseException) -> None:
        """After a fault of its own the environment is reset; a lost one is made anew by that."""
        self.deadline = math.inf

    def call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[float | None], Any]:
        """Begin to call a method, or to get an attribute; returns what waits for the result."""

        def run() -> Any:
            value = self.env.get_wrapper_attr(name)
            return value(*args, **kwargs) if callable(value) else value

        return self._host.ask(run)

    def set_attr(self, name: str, value: Any) -> Callable[[float | None], Any]:
        """Begin to set an attribute."""
        return self._host.ask(lambda: self.env.set_wrapper_attr(name, value))

    def close(self) -> None:
        """Have the environment closed, and the thread end. Waits for neither."""
        host = self._host

        def run() -> None:
            env, host.env = host.env, None
            if env is not None:
                env.close()

        self._task = None
        self._closing = host.ask(run)
        host.stop()

    def abandon(self) -> None:
        """Have the thread end, once nobody can call ``close`` any more."""
        self._host.stop()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread's end after ``close``."""
        self._host.thread.join(timeout_s)
        if not self._host.thread.is_alive():
            self._closing(None)

    def __repr__(self) -> str:
        return f"environment {self._number}"
