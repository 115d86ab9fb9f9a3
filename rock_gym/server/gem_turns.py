"""What an environment served over HTTP is asked, and what its answers are made of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rock_gym.envs.misuse import EnvClosed, ResetNeeded
from rock_gym.sandbox import Sandbox
from rock_gym.server.failures import Refused

__all__ = ["Limits", "OneCall", "Run", "Served", "busy", "reset_needed", "turn"]

T = TypeVar("T")

# Runs a call that blocks in a thread.
Run = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds."""

    step_s: float
    reset_s: float


class Served(Protocol):
    """One environment, or a batch of them. All methods are for the event loop.

    Attributes:
        size: How many environments it is.
        batched: Whether its answers are lists.
        last_use_s: When it was last used, in terms of ``time.monotonic``.
    """

    size: int
    batched: bool
    last_use_s: float

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""

    @property
    def sandbox(self) -> Sandbox | None:
        """Its sandbox, if there is one and nobody else plays in it."""

    async def prepare(self, verify: bool) -> None:
        """Find out what is missing.

        Args:
            verify: Whether to reset it once, as what is wrong with the environment itself comes
                out only then.
        """

    async def close(self) -> None:
        """Give up all that it holds."""


class OneCall:
    """Refuses calls that come while another is under way.

    Attributes:
        last_use_s: See ``Served``.
    """

    def __init__(self) -> None:
        self.last_use_s = time.monotonic()
        self._lock = asyncio.Lock()
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._lock.locked()

    async def _alone(self, call: Callable[[], Awaitable[T]]) -> T:
        if self._lock.locked():
            raise busy()
        async with self._lock:
            if self._closed:
                raise EnvClosed("the environment was closed meanwhile: make a new one")
            self.last_use_s = time.monotonic()
            try:
                return await call()
            finally:
                self.last_use_s = time.monotonic()


def busy() -> Refused:
    """Return the error for a call that came while another was under way."""
    return Refused(
        "another call to this environment is under way: wait for its answer",
        kind="busy",
        http=409,
    )


def reset_needed(over: bool) -> ResetNeeded:
    """Return the error for a step without an episode."""
    return ResetNeeded(
        "the episode is over: reset the environment to begin another"
        if over
        else "no episode is under way: reset the environment first"
    )


def turn(
    observation: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]
) -> dict[str, Any]:
    """Return what a step gave under the names that it has over HTTP."""
    return {
        "observation": observation,
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
        "info": info,
    }
