"""Rows of the table about many environments at once.

The floor of most is gymnasium's own vectorizer over the same environments without sandboxes: a
process for each, forked from this one, which has imported gem.
"""

from __future__ import annotations

import functools
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv

from benchmarks.table import Samples, Unit, row
from rock_gym.envs import SandboxVectorEnv
from rock_gym.envs.spaces import Unicode

Measure = Callable[[int], tuple[list[float], list[float]]]

GUESS, TILES, SOKOBAN = (
    "game:GuessTheNumber-v0-hard",
    "game:Game2048-v0-easy",
    "game:Sokoban-v0-easy",
)
MOVES = ("up", "down", "left", "right")

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
        else:
            yield [f"\\boxed{{{drawn.choice(MOVES)}}}" for _ in range(number)]


def steps_of(envs: Any, gem_id: str, number: int) -> Callable[[], float]:
    """What tells how long the next step of all takes."""
    actions = actions_of(gem_id, number)

    def step() -> float:
        chosen = next(actions)
        start = time.perf_counter()
        envs.step(chosen)
        return time.perf_counter() - start

    return step


def lockstep(
    gem_id: str, number: int, envs_per_process: int = 1
) -> Callable[[int], tuple[list[float], list[float]]]:
    """Compare steps of all at once with gymnasium's processes."""

    def measure(count: int) -> tuple[list[float], list[float]]:
        import gem

        gem.make(gem_id)  # imported before the fork, not after it in each
        makers = [lambda: Unsandboxed(gem_id) for _ in range(number)]
        with closing(AsyncVectorEnv(makers, shared_memory=False)) as plain:
            envs = SandboxVectorEnv(
                gem_id=gem_id,
                num_envs=number,
                envs_per_process=envs_per_process,
                backend="bubblewrap",
            )
            with closing(envs):
                plain.reset(seed=1)
                envs.reset(seed=1)
                ours, floor = steps_of(envs, gem_id, number), steps_of(plain, gem_id, number)
                return alternate(ours, floor, count)

    return measure


def alternate(
    ours: Callable[[], float], floor: Callable[[], float], count: int
) -> tuple[list[float], list[float]]:
    """Sample both in turns of ten steps, so that each finds caches as it would alone."""
    taken: tuple[list[float], list[float]] = ([], [])
    turn = min(10, count)
    for number in range(-2, max(1, count // turn)):
        for measure, kept in zip((ours, floor), taken, strict=True):
            values = [measure() for _ in range(turn)]
            if number >= 0:
                kept += values
    return taken


@contextmanager
def sleepers(number: int) -> Iterator[SandboxVectorEnv]:
    """Environments whose steps take as long as the action says."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "sleeper.py").write_text(SLEEPER)
        Path(directory).chmod(0o755)  # sandboxes of root run as another user
        envs = SandboxVectorEnv(
            gem_id="bench:Sleeper-v0",
            num_envs=number,
            imports=["sleeper"],
            python_path=[directory],
            envs_per_sandbox=64,
            backend="bubblewrap",
        )
        with closing(envs):
            envs.reset(seed=1)
            yield envs


def stragglers(count: int) -> tuple[list[float], list[float]]:
    """Seconds per step by recv, and what it would be if none waited for another."""
    number = 64
    ours: list[float] = []
    floor: list[float] = []
    drawn = random.Random(2)

    def nap() -> str:
        return str(SLOW_S if drawn.random() < SLOW_SHARE else STEP_S)

    with sleepers(number) as envs:
        naps = [nap() for _ in range(number)]
        envs.send(naps)
        for _ in range(max(1, count)):
            done = asleep = 0.0
            start = time.perf_counter()
            while done < 20 * number:
                *_, infos = envs.recv(min_envs=8)
                woken = infos["env_id"].tolist()
                done += len(woken)
                asleep += sum(float(naps[index]) for index in woken)
                for index in woken:
                    naps[index] = nap()
                envs.send([naps[index] for index in woken], woken)
            ours.append((time.perf_counter() - start) / done)
            floor.append(asleep / done / number)
        envs.recv()
    return ours, floor


def lockstep_stragglers(count: int) -> tuple[list[float], list[float]]:
    """The same by step, which waits for the slowest."""
    number = 64
    drawn = random.Random(2)
    ours: list[float] = []
    floor: list[float] = []
    with sleepers(number) as envs:
        for _ in range(max(1, count)):
            naps = [SLOW_S if drawn.random() < SLOW_SHARE else STEP_S for _ in range(number)]
            start = time.perf_counter()
            envs.step([str(nap) for nap in naps])
            ours.append((time.perf_counter() - start) / number)
            floor.append(sum(naps) / number / number)
    return ours, floor


class OneProcess:
    """The same episodes by gem in this process, one environment after the other."""

    def __init__(self, gem_id: str, number: int) -> None:
        self._envs = [Unsandboxed(gem_id) for _ in range(number)]
        self._over = [False] * number

    def reset(self, seed: int) -> None:
        """Begin."""
        for index, env in enumerate(self._envs):
            env.reset(seed=seed + index)

    def step(self, actions: list[str]) -> None:
        """Step each, or reset it after the end of an episode."""
        state = random.getstate(), np.random.get_state()
        for index, (env, action) in enumerate(zip(self._envs, actions, strict=True)):
            if self._over[index]:
                env.reset()
                self._over[index] = False
            else:
                _, _, terminated, truncated, _ = env.step(action)
                self._over[index] = terminated or truncated
        random.setstate(state[0])
        np.random.set_state(state[1])


def slow_resets(count: int, envs_per_process: int = 1) -> tuple[list[float], list[float]]:
    """Seconds until each has taken so many turns, most of which go into resets."""
    number, turns = 64, max(2, count)
    moves = list(itertools.islice(actions_of(SOKOBAN, number), turns))
    plain = OneProcess(SOKOBAN, number)
    plain.reset(seed=1)
    envs = SandboxVectorEnv(
        gem_id=SOKOBAN,
        num_envs=number,
        envs_per_process=envs_per_process,
        backend="bubblewrap",
    )
    with closing(envs):
        envs.reset(seed=1)
        start = time.perf_counter()
        each_at_its_own_pace(envs, moves)
        middle = time.perf_counter()
        for actions in moves:
            plain.step(actions)
        return [middle - start], [time.perf_counter() - middle]


def each_at_its_own_pace(envs: SandboxVectorEnv, moves: list[list[str]]) -> None:
    """Take the same turns as ``step`` would, but let none wait for another."""
    taken = [0] * envs.num_envs
    again = list(range(envs.num_envs))
    while min(taken) < len(moves):
        envs.send([moves[taken[index]][index] for index in again], again)
        woken = envs.recv(min_envs=8)[-1]["env_id"].tolist()
        for index in woken:
            taken[index] += 1
        again = [index for index in woken if taken[index] < len(moves)]


def add(name: str, floor: str, measure: Measure, *, count: int, bar: float, unit: Unit) -> None:
    """Add a row, held to a ratio."""
    added = row(name, floor=floor, against="ratio", count=count, bar=bar, unit=unit)
    added(lambda count: Samples(*measure(count)))


for title, gem_id in (("GuessTheNumber", GUESS), ("2048", TILES)):
    for number in (8, 64, 256):
        add(
            f"step of {number} {title}, one process each",
            "AsyncVectorEnv without sandboxes",
            lockstep(gem_id, number),
            count=max(100, 12_800 // number),
            bar=1 / 1.4,
            unit="us",
        )
for title, gem_id in (("GuessTheNumber", GUESS), ("2048", TILES)):
    add(
        f"step of 64 {title}, 16 in a process",
        "AsyncVectorEnv without sandboxes",
        lockstep(gem_id, 64, 16),
        count=200,
        bar=1 / 4,
        unit="us",
    )
add(
    "step of one of 64 by recv, 5 % of them 10 x slower",
    "ideal: none waits for another",
    stragglers,
    count=5,
    bar=1 / 0.9,
    unit="us",
)
add(
    "the same in lockstep",
    "ideal: none waits for another",
    lockstep_stragglers,
    count=30,
    bar=20,
    unit="us",
)
add(
    "300 turns of each of 64 Sokoban-easy",
    "gem in one process",
    slow_resets,
    count=300,
    bar=1 / 1.5,
    unit="s",
)
add(
    "the same, 8 in a process",
    "gem in one process",
    functools.partial(slow_resets, envs_per_process=8),
    count=300,
    bar=1 / 1.5,
    unit="s",
)
