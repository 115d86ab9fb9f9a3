"""The halves of calls that gymnasium's AsyncVectorEnv has, for programs that use them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym

__all__ = ["AsyncHalves"]


class AsyncHalves:
    """``reset_async`` and ``reset_wait``, ``step_async`` and ``step_wait``."""

    _begun: str | None = None
    num_envs: int

    if TYPE_CHECKING:
        _awaited: int
        _ready: list[int]
        _check_open: Callable[[], None]
        _gather: Callable[..., None]
        _take: Callable[..., Any]
        _finish_reset: Callable[..., Any]
        send: Callable[..., None]
        send_reset: Callable[..., None]

    def reset_async(
        self,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Begin to reset all environments. ``reset_wait`` brings what comes of it."""
        self._begin_half("reset")
        self.send_reset(None, seed, options)
        self._begun = "reset"

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """Wait for ``reset_async``.

        Raises:
            multiprocessing.TimeoutError: If it takes longer than ``timeout`` seconds.
        """
        self._finish_half("reset", timeout)
        result: tuple[Any, dict[str, Any]] = self._finish_reset(range(self.num_envs))
        return result

    def step_async(self, actions: Any) -> None:
        """Begin a turn in all environments. ``step_wait`` brings what comes of it."""
        self._begin_half("step")
        self.send(actions)
        self._begun = "step"

    def step_wait(self, timeout: float | None = None) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Wait for ``step_async``; raises as ``reset_wait``."""
        self._finish_half("step", timeout)
        batch: tuple[Any, Any, Any, Any, dict[str, Any]] = self._take(range(self.num_envs))
        return batch

    def _begin_half(self, what: str) -> None:
        self._check_open()
        if self._begun is not None or self._awaited or self._ready:
            begun = self._begun or "send"
            raise gym.error.AlreadyPendingCallError(
                f"Calling `{what}_async` while waiting for a pending call to `{begun}` to "
                "complete: receive it first",
                begun,
            )

    def _finish_half(self, what: str, timeout: float | None) -> None:
        self._check_open()
        if self._begun != what:
            raise gym.error.NoAsyncCallError(
                f"Calling `{what}_wait` without any prior call to `{what}_async`.", what
            )
        until = None if timeout is None else time.monotonic() + timeout
        self._gather(lambda: len(self._ready) == self.num_envs, until)
        if len(self._ready) < self.num_envs:
            raise multiprocessing.TimeoutError(
                f"The call to `{what}_wait` has timed out after {timeout} second(s)."
            )
        self._begun = None
