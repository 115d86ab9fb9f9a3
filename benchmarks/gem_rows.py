"""What a GEM environment in a sandbox costs, and getting there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.games import ACTION, GUESS, play
from benchmarks.peers.process import Peers
from benchmarks.peers.vectors import GYM_ASYNC
from benchmarks.table import (
    Cpus,
    Samples,
    Side,
    above,
    at_most,
    compare,
    repeat,
    row,
    take_turns,
    timed,
)

FLOORS = Path(__file__).with_name("floors.py")
ASYNC_ONE, ECHO = "AsyncVectorEnv of one", "raw socket echo"


@contextmanager
def gem_env() -> Iterator[Any]:
    import gymnasium as gym

    import rock_gym

    gym.logger.min_level = gym.logger.ERROR
    env = rock_gym.make(GUESS, backend="bubblewrap")
    try:
        yield env.unwrapped
    finally:
        env.close()


def gem_step(count: int, *, apart: bool = False) -> Samples:
    """Steps of the same game, inside and in process; each side times its own, in small batches."""
    from benchmarks.floors import EchoProcess, GemInProcess, below

    with (
        ExitStack() as stack,
        gem_env() as env,
        GemInProcess(GUESS, ACTION) as raw,
        EchoProcess() as echo,
    ):
        env.reset(seed=1)
        beside = Peers(stack)
        other = beside.start(ASYNC_ONE, "vectors", GYM_ASYNC, GUESS, "1")
        if apart:
            here, there = sorted(os.sched_getaffinity(0))[:2]
            os.sched_setaffinity(0, {here})
            for pid in (env._worker.pid, echo.pid):
                os.sched_setaffinity(pid, {there})
            if other is not None:
                os.sched_setaffinity(other.pid, {here})
                for pid in below(other.pid):
                    os.sched_setaffinity(pid, {there})

        peers = {ECHO: Side(repeat(lambda: timed(echo.turn)), 50)}
        if other is not None:
            peers[ASYNC_ONE] = Side(partial(other.sample, "step"), 50)
        return compare(
            count, Side(partial(play, env), 50), Side(raw.steps, 50), peers, beside.missing
        )


_PLACES: tuple[tuple[Cpus, tuple[float, float]], ...] = (("one", (30, 15)), ("two", (90, 60)))
for _cpus, _limits in _PLACES:
    row(
        "GEM step, one env",
        what="`env.step` of GuessTheNumber, observation and info decoded",
        isolation="ours in an embedded sandbox, the others in none",
        # Its steps include the resets that follow an episode.
        peers=[ASYNC_ONE, ECHO],
        floor="gem in process",
        count=5000,
        bars=[above(*_limits)],
        unit="us",
        cpus=_cpus,
    )(partial(gem_step, apart=_cpus == "two"))


def _fill_bytecode_cache() -> None:
    with gem_env() as env:
        env.reset(seed=1)


@row(
    "first reset",
    what="`env.reset` of a new process: sandbox, guest with gem, env process",
    floor="`import gem` in a fresh interpreter",
    count=5,
    bars=[at_most(1.2)],
    unit="s",
)
def guest_up(count: int) -> Samples:
    _fill_bytecode_cache()
    ours = [sys.executable, str(FLOORS), "first-reset", GUESS]
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
    from benchmarks.floors import below, proportional_mb

    before = below(os.getpid())
    envs = [rock_gym.make(GUESS, backend="bubblewrap").unwrapped for _ in range(number)]
    try:
        envs[0].reset(seed=0)
        with ThreadPoolExecutor(16) as threads:
            start = time.perf_counter()
            list(threads.map(lambda env: env.reset(seed=1), envs[1:]))
            took = time.perf_counter() - start
        mine = below(os.getpid()) - before
        return took, sum(map(proportional_mb, mine)) / number
    finally:
        for env in envs:
            env.close()


@row(
    "64 env processes ready",
    what="`reset` of 63 more environments by 16 threads, guest up",
    floor="as many forks of a small Python",
    count=3,
    bars=[at_most(0.4)],
    unit="s",
)
def many_ready(count: int) -> Samples:
    from benchmarks.floors import fork_many

    return take_turns(lambda: many_envs(64)[0], lambda: fork_many(63), count)


@row(
    "memory of an env process",
    what="proportional memory of 64 environments, per each, with their sandbox and guest, or with "
    "the process that has made them",
    peers=["AsyncVectorEnv's process"],
    floor="a process that has imported gem",
    count=2,
    bars=[at_most(5, 1)],
    unit="MB",
)
def many_memory(count: int) -> Samples:
    from benchmarks.floors import imported_gem_mb

    name = "AsyncVectorEnv's process"
    with ExitStack() as stack:
        beside = Peers(stack)
        other = beside.start(name, "vectors", GYM_ASYNC, GUESS, "64")
        return compare(
            count,
            Side(repeat(lambda: many_envs(64)[1])),
            Side(repeat(imported_gem_mb)),
            {name: Side(partial(other.sample, "memory"))} if other else {},
            beside.missing,
        )


# Start-up


@row(
    "`import rock_gym`",
    what="the import in a new interpreter, gymnasium imported before",
    isolation="none on either side",
    floor="`import gymnasium`",
    count=20,
    bars=[at_most(50)],
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
