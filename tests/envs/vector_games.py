"""Environments to make vectors of: small games in this process, and one that runs in sandboxes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.spaces import Discrete, Space


class Countdown(gym.Env[Any, Any]):
    """Counts its steps, and ends after so many. Its reward is the action."""

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012

    def __init__(self, length: int = 3, space: Space[Any] | None = None, drawn: bool = False):
        self.observation_space = Discrete(1000) if space is None else space
        self.action_space = Discrete(1000)
        self.render_mode = "ansi"
        self.length, self.count, self.drawn = length, 0, drawn
        self.space = space
        self.seeds: list[int | None] = []
        self.options: list[Any] = []
        self.thread = threading.current_thread()
        self.closed_by: threading.Thread | None = None

    def _observe(self) -> Any:
        if self.space is not None:
            return self.space.sample()
        return int(self.np_random.integers(1000)) if self.drawn else self.count

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.options.append(options)
        self.count = 0
        return self._observe(), {"began": True}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert threading.current_thread() is self.thread
        self.count += 1
        over = self.count >= self.length
        return self._observe(), action, over, False, {"count": self.count}

    def render(self) -> str:
        return f"{self.count} of {self.length}"

    def double(self, number: int) -> int:
        return 2 * number

    def close(self) -> None:
        self.closed_by = threading.current_thread()


class Slow(Countdown):
    """Sleeps as many milliseconds as its action says, and raises if that is 999."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 999:
            raise RuntimeError("as told")
        time.sleep(action / 1000)
        return super().step(action)


class Gated(Countdown):
    """Steps once it is let to."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate = threading.Semaphore(0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 7:
            self.gate.acquire()
        return super().step(action)


def counters(*lengths: int, **kwargs: Any) -> list[Callable[[], gym.Env[Any, Any]]]:
    """Functions that make one Countdown of each length."""
    return [lambda length=length: Countdown(length, **kwargs) for length in lengths]  # type: ignore[misc]
