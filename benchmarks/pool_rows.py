"""What a pool costs its callers: leases, their return, and a steady stream of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.docker_cli import DOCKER_RUN, docker_beside
from benchmarks.table import Samples, Side, a_second, at_most, compare, repeat, row, timed


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
    what="`pool.acquire` as its caller sees it, spares ready and nobody at work",
    floor="bare `bwrap` that runs `true`",
    count=200,
    bars=[at_most(50, 20)],
    unit="us",
)
def warm_acquire(count: int) -> Samples:
    return Samples(_leases(count)[0], _bare_starts(min(50, count)))


@row(
    "release seen by the caller",
    what="`pool.release`; the sandbox ends and is replaced afterwards",
    floor="bare `bwrap` that runs `true`",
    count=200,
    bars=[at_most(100, 50)],
    unit="us",
)
def release(count: int) -> Samples:
    return Samples(_leases(count)[1], _bare_starts(min(50, count)))


@row(
    "sustained create-use-destroy",
    what="cycles of acquire, `true`, release by two threads, a sample the mean of fifty cycles",
    isolation="an embedded sandbox, a container without a network, bwrap with the same flags",
    peers=[DOCKER_RUN],
    floor="bare `bwrap` that runs `true`, by two threads",
    count=10,
    bars=[a_second(100, 250)],
    unit="ms",
)
def sustained(count: int) -> Samples:
    from benchmarks.floors import bare_bwrap
    from rock_gym import SandboxPool

    cycles = 50

    def by_two(action: Callable[[], object], cycles: int) -> None:
        for each in [threads.submit(action) for _ in range(cycles)]:
            each.result()

    with (
        ExitStack() as stack,
        ThreadPoolExecutor(2) as threads,
        SandboxPool(backend="bubblewrap", min_idle=4, max_size=16) as pool,
    ):

        def cycle() -> None:
            with pool.acquire() as sandbox:
                assert sandbox.execute(["true"]).exit_code == 0

        def ours() -> None:
            by_two(cycle, cycles)
            # To the state at the beginning: spares that were there are made again, ends are over.
            _warm(pool, 4)

        def floor() -> None:
            by_two(lambda: bare_bwrap()(), cycles)

        docker = docker_beside(
            stack,
            DOCKER_RUN,
            lambda docker: timed(lambda: by_two(docker.run_true, 2)) / 2,
        )
        _warm(pool, 4)
        return compare(
            count,
            Side(repeat(lambda: timed(ours) / cycles)),
            Side(repeat(lambda: timed(floor) / cycles)),
            *docker,
        )
