"""What a pool costs its callers: leases, their return, and a steady stream of both."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from benchmarks.table import Samples, row, timed


def _warm(pool: Any, spares: int) -> None:
    """Wait until the pool has nothing to do, so that it takes no CPU from what is measured."""
    while True:
        now = pool.statistics()
        if now.idle >= spares and not now.starting and not now.ending:
            return
        time.sleep(0.001)


def _leases(count: int) -> tuple[list[float], list[float]]:
    from rock_gym import SandboxPool

    acquired, released = [], []
    with SandboxPool(backend="bubblewrap", min_idle=4, max_size=16) as pool:
        for _ in range(count + 5):
            _warm(pool, 4)
            start = time.perf_counter()
            sandbox = pool.acquire()
            acquired.append(time.perf_counter() - start)
            released.append(timed(partial(pool.release, sandbox)))
    return acquired[5:], released[5:]


def _bare_starts(count: int) -> list[float]:
    from benchmarks.floors import bare_bwrap

    return [timed(bare_bwrap()) for _ in range(count)]


@row(
    "warm `acquire`",
    floor="bare `bwrap` that runs `true`",
    count=200,
    bar=100,
    against="value",
    unit="us",
)
def warm_acquire(count: int) -> Samples:
    return Samples(_leases(count)[0], _bare_starts(min(50, count)))


@row(
    "`release` as the caller sees it",
    floor="bare `bwrap` that runs `true`",
    count=200,
    bar=200,
    against="value",
    unit="us",
)
def release(count: int) -> Samples:
    return Samples(_leases(count)[1], _bare_starts(min(50, count)))


@row(
    "acquire, `true`, release, sustained, per cycle",
    floor="bare `bwrap` that runs `true`",
    count=10,
    bar=10,
    against="value",
    unit="ms",
)
def sustained(count: int) -> Samples:
    """Each sample is the mean of fifty cycles in a row."""
    from rock_gym import SandboxPool

    cycles = 50
    samples = Samples()
    with SandboxPool(backend="bubblewrap", min_idle=4, max_size=16) as pool:
        _warm(pool, 4)
        for _ in range(count):
            start = time.perf_counter()
            for _ in range(cycles):
                with pool.acquire() as sandbox:
                    sandbox.execute(["true"])
            samples.ours.append((time.perf_counter() - start) / cycles)
            samples.floor += _bare_starts(10)
    return samples
