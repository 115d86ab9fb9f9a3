"""Very many sandboxes at once, and very many one after the other."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rock_gym import SandboxPool
from tests.contract.support import eventually, within

# Of containers of an engine a machine holds fewer, and each takes its time.
AT_ONCE = {"bubblewrap": 1000}
IN_A_ROW = {"bubblewrap": int(os.environ.get("ROCK_GYM_CYCLES", "1000"))}


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(600)
def test_a_thousand_sandboxes_at_once(backend: str, many_descriptors: None) -> None:
    """Each answers for itself, and all end together within seconds."""
    count = AT_ONCE.get(backend, 20)
    with SandboxPool(backend=backend) as pool:
        sandboxes = pool.acquire_many(count, timeout=300)
        outcomes: list[Any] = pool.execute(
            [f"echo {number}" for number in range(count)], sandboxes=sandboxes
        )
        assert [outcome.stdout for outcome in outcomes] == [f"{n}\n" for n in range(count)]
        assert all(sandbox.is_alive() for sandbox in sandboxes)
        # A kernel takes its time to end a thousand network namespaces while others make some.
        with within(240):
            pool.close()


def resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.timeout(900)
def test_cycle_after_cycle_holds_nothing(backend: str) -> None:
    """Memory, threads, descriptors and processes are flat; ROCK_GYM_CYCLES=10000 for longer."""
    cycles = IN_A_ROW.get(backend, 30)

    def use(pool: SandboxPool, count: int) -> None:
        for number in range(count):
            with pool.acquire() as sandbox:
                assert sandbox.execute(["echo", str(number)]).stdout == f"{number}\n"
        assert eventually(lambda: pool.statistics().ending == pool.statistics().starting == 0)

    with SandboxPool(backend=backend, min_idle=2, max_size=8) as pool:
        use(pool, cycles // 5)
        before = resident_kib(), threading.active_count(), len(os.listdir("/proc/self/fd"))
        use(pool, cycles)
        after = resident_kib(), threading.active_count(), len(os.listdir("/proc/self/fd"))
    assert after[0] <= before[0] + 4096
    assert after[1] <= before[1] + 6
    assert after[2] <= before[2] + 16
