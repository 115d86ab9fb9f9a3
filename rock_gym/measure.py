"""A short measurement of what sandboxes and environments cost on this machine.

It needs nothing but the installed library. The project's own benchmarks, which compare with floors
and hold bars, are in its repository.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import gymnasium as gym

from rock_gym.sandbox import Sandbox

__all__ = ["Figure", "measure"]

GAME = "gem-game/GuessTheNumber-easy-v0"


@dataclass(frozen=True)
class Figure:
    """What was measured of one thing.

    Attributes:
        name: What it is.
        median: Half of the samples are below.
        p90: Nine of ten are below.
        unit: ``"ms"``, where less is better, or ``"steps/s"``.
        samples: How many there were.
    """

    name: str
    median: float
    p90: float
    unit: str
    samples: int


def measure(backend: str = "auto", num_envs: int = 64, scale: float = 1.0) -> Iterator[Figure]:
    """Measure one thing after the other.

    Args:
        backend: What runs the sandboxes.
        num_envs: How many environments a vector has.
        scale: How many samples to take, as a multiple of the usual.

    Yields:
        Figures, as they are there. The first is of a bare process, to compare with.
    """

    def often(count: int) -> int:
        return max(int(count * scale), 3)

    yield _times("bare process: true", lambda: subprocess.run(["true"], check=True), often(50))
    yield _times("sandbox: start, first command, end", lambda: _use_one(backend), often(20))
    with Sandbox.start(backend=backend) as sandbox:
        yield _times("command: true", lambda: sandbox.execute(["true"]), often(100))
        session = sandbox.create_session()
        yield _times("line in a session: true", lambda: session.run("true"), often(200))
        data = b"x" * (1 << 20)
        yield _times("write 1 MiB to a file", lambda: sandbox.write_file("x", data), often(20))
    options: dict[str, Any] = {} if backend == "auto" else {"backend": backend}
    with gym.make(GAME, **options) as env:
        env.reset(seed=0)
        yield _times("environment: reset", env.reset, often(100))
        yield _times("environment: step", lambda: _step(env), often(200))
    for packed in (1, 16):
        if num_envs >= packed:
            yield _vector(num_envs, packed, often(20), options)


def _times(name: str, call: Callable[[], object], count: int) -> Figure:
    call()  # what is made once is no part of it
    took = []
    for _ in range(count):
        begun_s = perf_counter()
        call()
        took.append((perf_counter() - begun_s) * 1000)
    return _figure(name, took, "ms")


def _use_one(backend: str) -> None:
    with Sandbox.start(backend=backend) as sandbox:
        sandbox.execute(["true"], check=True)


def _step(env: gym.Env[Any, Any]) -> None:
    _, _, terminated, truncated, _ = env.step("\\boxed{1}")
    if terminated or truncated:
        env.reset()


def _vector(num_envs: int, packed: int, rounds: int, options: dict[str, Any]) -> Figure:
    envs = gym.make_vec(
        GAME, num_envs=num_envs, envs_per_process=packed, autoreset_mode="SameStep", **options
    )
    actions = ("\\boxed{1}",) * num_envs
    try:
        envs.reset(seed=0)
        rates = []
        for _ in range(rounds):
            begun_s = perf_counter()
            envs.step(actions)
            rates.append(num_envs / (perf_counter() - begun_s))
    finally:
        envs.close()
    how = "a process each" if packed == 1 else f"{packed} in a process"
    return _figure(f"vector of {num_envs}, {how}", rates, "steps/s")


def _figure(name: str, samples: list[float], unit: str) -> Figure:
    p90 = statistics.quantiles(samples, n=10, method="inclusive")[-1]
    return Figure(name, round(statistics.median(samples), 4), round(p90, 4), unit, len(samples))
