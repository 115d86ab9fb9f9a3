"""The halves of calls that gymnasium's AsyncVectorEnv has, for programs that use them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym

__all__ = ["AsyncHalves"]


class AsyncHalves:
    """``reset_async`` and ``reset_wait``, and the same for ``step`` and ``call``."""

    _begun: str | None = None
    _waited_out = False
    _called: list[Callable[[float | None], Any]]
    num_envs: int

    if TYPE_CHECKING:
        _awaited: int
        _ready: list[int]
        _check_open: Callable[[], None]
        _gather: Callable[..., None]
        _take: Callable[..., Any]
        _begin_call: Callable[..., list[Callable[[float | None], Any]]]
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

    def call_async(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Begin to call a method of each environment. ``call_wait`` brings the results."""
        self._begin_half("call")
        self._called = self._begin_call(name, args, kwargs)
        self._begun = "call"

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Wait for ``call_async``; raises as ``reset_wait``, and what the method raised."""
        self._check_begun("call")
        until = None if timeout is None else time.monotonic() + timeout
        try:
            results = tuple([result(_left(until)) for result in self._called])
        except multiprocessing.TimeoutError:
            raise self._timed_out("call", timeout) from None
        except BaseException:
            self._begun = None
            raise
        self._begun = None
        return results

    def _warn_of_halves(self) -> None:
        """Tell whoever closes the vector that a result is lost, unless they gave up on it."""
        if self._begun is not None and not self._waited_out:
            gym.logger.warn(
                f"Calling `close` while waiting for a pending call to `{self._begun}` to complete."
            )

    def _begin_half(self, what: str) -> None:
        self._check_open()
        self._waited_out = False
        if self._begun is not None or self._awaited or self._ready:
            begun = self._begun or "send"
            raise gym.error.AlreadyPendingCallError(
                f"Calling `{what}_async` while waiting for a pending call to `{begun}` to "
                "complete: receive it first",
                begun,
            )

    def _finish_half(self, what: str, timeout: float | None) -> None:
        self._check_begun(what)
        until = None if timeout is None else time.monotonic() + timeout
        self._gather(lambda: len(self._ready) == self.num_envs, until, whole=True)
        if len(self._ready) < self.num_envs:
            raise self._timed_out(what, timeout)
        self._begun = None

    def _check_begun(self, what: str) -> None:
        self._check_open()
        if self._begun != what:
            raise gym.error.NoAsyncCallError(
                f"Calling `{what}_wait` without any prior call to `{what}_async`.", what
            )

    def _timed_out(self, what: str, timeout: float | None) -> multiprocessing.TimeoutError:
        self._waited_out = True
        return multiprocessing.TimeoutError(
            f"The call to `{what}_wait` has timed out after {timeout} second(s)."
        )


def _left(until: float | None) -> float | None:
    return None if until is None else max(until - time.monotonic(), 0.0)
