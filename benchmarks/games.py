"""Games that rows play, and how they are played without a sandbox."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym

from rock_gym.envs.spaces import Unicode

GUESS, TILES, SOKOBAN = (
    "game:GuessTheNumber-v0-hard",
    "game:Game2048-v0-easy",
    "game:Sokoban-v0-easy",
)
# A turn of GUESS, which most rows that play one environment take.
ACTION = "\\boxed{1}"
MOVES = ("up", "down", "left", "right")
SLEEPER_ID = "bench:Sleeper-v0"
SLEEPER = """
import time
import gem
from gem.core import Env

class Sleeper(Env):
    def reset(self, seed=None):
        return "asleep", {}
    def step(self, action):
        time.sleep(float(action))
        return "awake", 1.0, False, False, {}

gem.register("bench:Sleeper-v0", "sleeper:Sleeper")
"""
STEP_S, SLOW_S, SLOW_SHARE = 0.02, 0.2, 0.05


class Unsandboxed(gym.Env[str, str]):
    """The same environment of GEM, in this process, with seeds and texts as ours has them."""

    def __init__(self, gem_id: str) -> None:
        import gem

        self.observation_space = Unicode(1 << 20)
        self.action_space = Unicode(1 << 20)
        self._env = gem.make(gem_id)

    @staticmethod
    def _text(text: str, info: dict[str, Any]) -> str:
        return "\n".join(filter(None, (info.get("prefix"), text, info.get("suffix"))))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        gem_seed = seed if seed is not None else int(self.np_random.integers(2**32))
        text, info = self._env.reset(seed=gem_seed)
        return self._text(text, info), info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        text, reward, terminated, truncated, info = self._env.step(action)
        return self._text(text, info), reward, terminated, truncated and not terminated, info


def actions_of(gem_id: str, number: int) -> Iterator[list[str]]:
    """Moves for as many environments, without end, the same each time."""
    drawn = random.Random(1)
    while True:
        if gem_id == GUESS:
            yield [f"\\boxed{{{drawn.randint(1, 50)}}}" for _ in range(number)]
        elif gem_id == SLEEPER_ID:
            yield [nap(drawn) for _ in range(number)]
        else:
            yield [f"\\boxed{{{drawn.choice(MOVES)}}}" for _ in range(number)]


def nap(drawn: random.Random) -> str:
    """How long a step of a sleeper takes: a few of them much longer than the others."""
    return str(SLOW_S if drawn.random() < SLOW_SHARE else STEP_S)


def steps_of(envs: Any, gem_id: str, number: int) -> Callable[[], float]:
    """Return what tells how long the next step of all takes."""
    actions = actions_of(gem_id, number)

    def step() -> float:
        chosen = next(actions)
        start = time.perf_counter()
        envs.step(chosen)
        return time.perf_counter() - start

    return step


def play(env: gym.Env[str, str], count: int) -> list[float]:
    """Seconds that each of so many steps of GUESS takes, resets left out."""
    taken: list[float] = []
    env.reset(seed=1)
    while len(taken) < count:
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(ACTION)
        taken.append(time.perf_counter() - start)
        if terminated or truncated:
            env.reset(seed=1)
    return taken
