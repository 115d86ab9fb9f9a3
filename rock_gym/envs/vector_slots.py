"""One environment of a vector: what was sent, what came back, and when an episode begins anew."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from rock_gym.errors import (
    BackendUnavailable,
    EnvUnavailable,
    ImageNotFound,
    PoolClosed,
    PoolExhausted,
    ResetTimeout,
    SandboxClosed,
    SandboxLost,
    SpecError,
    StartFailed,
    StepTimeout,
    WireError,
)

__all__ = ["FAULT_KINDS", "UNUSABLE", "Fault", "Player", "Slot", "kind_of"]

# What is wrong for every environment alike, and for ever: never something to train on.
UNUSABLE = (BackendUnavailable, EnvUnavailable, ImageNotFound, PoolClosed, SpecError)

_log = logging.getLogger("rock_gym")

FAULT_KINDS: dict[type[Exception], str] = {
    StepTimeout: "step_timeout",
    ResetTimeout: "reset_timeout",
    SandboxLost: "sandbox_lost",
    SandboxClosed: "sandbox_lost",
    PoolExhausted: "pool_exhausted",
    StartFailed: "start_failed",
    WireError: "wire_error",
}
"""What ``infos["fault"]`` says of an error; ``"env_error"`` for those that are not here."""


def kind_of(error: BaseException) -> str:
    """Return what ``infos["fault"]`` says of an error."""
    for kind, name in FAULT_KINDS.items():
        if isinstance(error, kind):
            return name
    return "env_error"


@dataclass(frozen=True, slots=True)
class Fault:
    """An error in the place of an answer."""

    error: BaseException


class Player(Protocol):
    """What plays one environment, without making anybody wait.

    Attributes:
        deadline: When, by ``time.monotonic``, what was sent will have taken too long.
    """

    deadline: float

    @property
    def env(self) -> gym.Env[Any, Any]:
        """The environment itself."""

    def send_reset(self, seed: int | None, options: dict[str, Any] | None) -> Fault | None:
        """Ask for a reset. Whatever else was under way is given up."""

    def send_step(self, action: Any) -> Fault | None:
        """Ask for a step."""

    def collect(self) -> Any:
        """Return what the environment's own method would, a Fault, or None for not yet."""

    def expire(self) -> Fault:
        """Give up what was sent, because its deadline has passed."""

    def ignore(self) -> None:
        """Stop listening until something is sent: what came was not asked for."""

    def recover(self, error: BaseException) -> None:
        """Let go of what is of no use after this error."""

    def call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[float | None], Any]:
        """Begin to call a method, or to get an attribute.

        Returns:
            What waits for the result, for so many seconds. Past them it raises
            multiprocessing's TimeoutError, and can be called again.
        """

    def set_attr(self, name: str, value: Any) -> Callable[[float | None], Any]:
        """Begin to set an attribute; returns what waits for it."""

    def close(self) -> None:
        """Close the environment. Waits for nothing."""

    def join(self, timeout_s: float) -> None:
        """Wait for what ``close`` began."""


class Slot:
    """An environment's place in a vector, and its row in the next batch.

    Attributes:
        pending: Whether something was sent that has no row yet.
        over: Whether the episode has ended, so that a reset is next.
        obs: The row's observation; it stays until there is another.
        reward: The row's reward.
        terminated: Whether the episode has terminated.
        truncated: Whether it was truncated.
        info: The row's info.
        final: The last observation and info of the episode before, where this row begins one.
        error: What is to be raised in the place of the row.
        failure: What went wrong in this row, if anything did.
    """

    __slots__ = (
        "_blank",
        "_elapsed",
        "_fault",
        "_limit",
        "_raises",
        "_same_step",
        "_stepping",
        "error",
        "failure",
        "final",
        "info",
        "obs",
        "over",
        "pending",
        "player",
        "reward",
        "terminated",
        "truncated",
    )

    def __init__(
        self, player: Player, mode: AutoresetMode, limit: int | None, raises: bool, blank: Any
    ) -> None:
        self.player = player
        self._same_step = mode is AutoresetMode.SAME_STEP
        self._limit: float = math.inf if limit is None else limit
        self._raises = raises
        self._blank = blank
        self._elapsed = 0
        self._stepping = False
        self._fault: str | None = None
        self.pending = self.over = False
        self.obs: Any = None
        self.reward: Any = 0.0
        self.terminated = self.truncated = False
        self.info: dict[str, Any] = {}
        self.final: tuple[Any, dict[str, Any]] | None = None
        self.error: BaseException | None = None
        self.failure: BaseException | None = None

    def send_step(self, action: Any) -> bool:
        """Ask for a step, or after the end of an episode for a reset; True if a row is there."""
        self.pending = True
        self.final = self._fault = self.error = self.failure = None
        if self.over:
            return self._reset(None, None)
        self._stepping = True
        fault = self.player.send_step(action)
        return fault is not None and self._fail(fault.error)

    def send_reset(self, seed: int | None, options: dict[str, Any] | None) -> bool:
        """Ask for a reset, whatever else was under way; True if a row is there already."""
        self.pending = True
        self.final = self._fault = self.error = self.failure = None
        return self._reset(seed, options)

    def advance(self) -> bool:
        """Take in what has come; True once that makes a row."""
        answer = self.player.collect()
        if answer is None:
            return False
        if type(answer) is Fault:
            return self._fail(answer.error)
        if self._stepping:
            return self._stepped(answer)
        return self._began(answer)

    def expire(self) -> bool:
        """Give up what was sent, as too slow; True once that makes a row."""
        return self._fail(self.player.expire().error)

    def full_info(self) -> dict[str, Any]:
        """The row's info, with the end of the episode before if the row begins one."""
        if self.final is None:
            return self.info
        obs, info = self.final
        return {"final_obs": obs, "final_info": info, **self.info}

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> bool:
        self._stepping = False
        fault = self.player.send_reset(seed, options)
        return fault is not None and self._fail(fault.error)

    def _stepped(self, answer: Any) -> bool:
        self.obs, self.reward, self.terminated, truncated, self.info = answer
        self._elapsed += 1
        self.truncated = truncated or self._elapsed >= self._limit
        if self.terminated or self.truncated:
            return self._ended()
        self.pending = False
        return True

    def _ended(self) -> bool:
        self.over = True
        if not self._same_step:
            return self._finish()
        self.final = self.obs, self.info
        return self._reset(None, None)

    def _began(self, answer: Any) -> bool:
        self.obs, self.info = answer
        self._elapsed = 0
        self.over = False
        if self.final is None:
            self.reward, self.terminated, self.truncated = 0.0, False, False
        if self._fault is not None:
            self.info = {**self.info, "fault": self._fault}
        return self._finish()

    def _fail(self, error: BaseException) -> bool:
        self.player.recover(error)
        self.over, self.failure = True, error
        if self._raises or isinstance(error, UNUSABLE) or (self.obs is self._blank is None):
            self.error = error
            return self._finish()
        self._fault = kind_of(error)
        _log.warning("an episode of %r ends by a fault: %s", self.player, error)
        if self.final is None:
            self.reward, self.terminated, self.truncated = 0.0, False, True
        self.info = {"fault": self._fault}
        if self.obs is None:
            self.obs = self._blank
        # A step's row can still begin an episode; a reset that failed is tried anew at the next.
        return self._ended() if self._stepping else self._finish()

    def _finish(self) -> bool:
        self.pending = False
        return True
