"""What a GEM environment in a sandbox costs, and getting there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.table import Samples, row, take_turns, timed

FLOORS = Path(__file__).with_name("floors.py")
GAME = "game:GuessTheNumber-v0-hard"
ACTION = "\\boxed{1}"


@contextmanager
def gem_env() -> Iterator[Any]:
    import gymnasium as gym

    import rock_gym

    gym.logger.min_level = gym.logger.ERROR
    env = rock_gym.make(GAME, backend="bubblewrap")
    try:
        yield env.unwrapped
    finally:
        env.close()


def gem_step(count: int) -> Samples:
    """Steps of the same game, inside and in process; both time themselves, in small batches."""
    from benchmarks.floors import GemInProcess

    batch = min(50, count)
    samples = Samples()
    with gem_env() as env, GemInProcess(GAME, ACTION) as raw:

        def ours() -> list[float]:
            taken: list[float] = []
            env.reset(seed=1)
            while len(taken) < batch:
                start = time.perf_counter()
                _, _, terminated, truncated, _ = env.step(ACTION)
                taken.append(time.perf_counter() - start)
                if terminated or truncated:
                    env.reset(seed=1)
            return taken

        ours(), raw.steps(batch)
        for _ in range(max(1, count // batch)):
            samples.ours += ours()
            samples.floor += raw.steps(batch)
    return samples


@row(
    "GEM step through the sandbox",
    floor="gem in process",
    count=5000,
    bar=40,
    against="above",
    unit="us",
    cpus="one",
)
def gem_step_pinned(count: int) -> Samples:
    return gem_step(count)


@row(
    "GEM step through the sandbox",
    floor="gem in process",
    count=5000,
    bar=100,
    against="above",
    unit="us",
)
def gem_step_free(count: int) -> Samples:
    return gem_step(count)


def _fill_bytecode_cache() -> None:
    with gem_env() as env:
        env.reset(seed=1)


@row(
    "first reset: sandbox, guest with gem, env process",
    floor="`import gem` in a fresh interpreter",
    count=5,
    bar=1.2,
    against="value",
    unit="s",
)
def guest_up(count: int) -> Samples:
    _fill_bytecode_cache()
    ours = [sys.executable, str(FLOORS), "first-reset", GAME]
    floor = [sys.executable, "-c", "import gem"]

    def tell(command: list[str]) -> float:
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return take_turns(
        lambda: tell(ours),
        lambda: timed(lambda: subprocess.run(floor, check=True, capture_output=True)),
        count,
    )


def many_envs(number: int) -> tuple[float, float]:
    """Seconds until that many env processes are ready, and proportional memory of each in MB.

    The guest runs before the clock does, and its memory and the sandbox's are shared out among
    them all.
    """
    import rock_gym
    from benchmarks.floors import proportional_mb

    envs = [rock_gym.make(GAME, backend="bubblewrap").unwrapped for _ in range(number)]
    try:
        envs[0].reset(seed=0)
        with ThreadPoolExecutor(16) as threads:
            start = time.perf_counter()
            list(threads.map(lambda env: env.reset(seed=1), envs[1:]))
            took = time.perf_counter() - start
        return took, proportional_mb() / number
    finally:
        for env in envs:
            env.close()


@row(
    "64 env processes ready, guest up",
    floor="64 times `fork` of a small Python",
    count=3,
    bar=0.4,
    against="value",
    unit="s",
)
def many_ready(count: int) -> Samples:
    from benchmarks.floors import fork_many

    return take_turns(lambda: many_envs(64)[0], lambda: fork_many(63), count)


@row(
    "proportional memory of each of 64 env processes",
    floor="a process that has imported gem",
    count=2,
    bar=8,
    against="value",
    unit="MB",
)
def many_memory(count: int) -> Samples:
    from benchmarks.floors import imported_gem_mb

    return take_turns(lambda: many_envs(64)[1], imported_gem_mb, count)


# Start-up


@row(
    "`import rock_gym`, gymnasium imported",
    floor="`import gymnasium`",
    count=20,
    bar=50,
    against="value",
    unit="ms",
)
def import_time(count: int) -> Samples:
    code = (
        "import json, time; a = time.perf_counter(); import gymnasium; b = time.perf_counter(); "
        "import rock_gym; print(json.dumps([time.perf_counter() - b, b - a]))"
    )
    samples = Samples()
    for _ in range(count + 1):
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        ours, floor = json.loads(done.stdout)
        samples.ours.append(ours)
        samples.floor.append(floor)
    # The first one may have had to compile.
    return Samples(samples.ours[1:], samples.floor[1:])
