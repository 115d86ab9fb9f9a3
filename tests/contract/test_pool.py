"""Sandboxes lent and taken back."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rock_gym import SandboxPool
from rock_gym.errors import PoolClosed, PoolExhausted, SandboxClosed, SpecError
from tests.contract.support import Owner, eventually, forget, members, wait_gone, within


def test_a_lease(backend: str) -> None:
    """Acquiring lends a running sandbox, leaving the block takes it back."""
    with SandboxPool(backend=backend) as pool:
        with pool.acquire() as sandbox:
            assert sandbox.execute("echo hi").stdout == "hi\n"
        with pytest.raises(SandboxClosed):
            sandbox.execute("true")


def test_every_lease_is_pristine(backend: str) -> None:
    """A sandbox that was used is never lent again."""
    with SandboxPool(backend=backend, min_idle=1, max_size=2) as pool:
        seen = set()
        for _ in range(10):
            with pool.acquire(timeout=20) as sandbox:
                assert sandbox.execute("cat f; cat /tmp/x; pgrep sleep").stdout == ""
                sandbox.execute("echo used > f; echo used > /tmp/x; setsid sleep 1000 &")
                seen.add(sandbox.id)
        assert len(seen) == 10


def test_releasing(backend: str) -> None:
    """By hand, twice, or after stop(): all fine."""
    with SandboxPool(backend=backend, max_size=1) as pool:
        sandbox = pool.acquire()
        pool.release(sandbox)
        pool.release(sandbox)
        other = pool.acquire(timeout=20)
        other.stop()
        pool.release(other)
        pool.release(pool.acquire(timeout=20))
    with SandboxPool(backend=backend) as one, SandboxPool(backend=backend) as two:
        sandbox = one.acquire()
        with pytest.raises(SpecError):
            two.release(sandbox)


def test_exhaustion(backend: str) -> None:
    """Beyond max_size an acquire waits, for its timeout at most, and says what to do."""
    with SandboxPool(backend=backend, max_size=2) as pool:
        held = [pool.acquire(), pool.acquire()]
        start = time.monotonic()
        with pytest.raises(PoolExhausted, match="max_size"):
            pool.acquire(timeout=0.3)
        assert 0.25 < time.monotonic() - start < 3
        with within(1), pytest.raises(PoolExhausted):
            pool.acquire(timeout=0)
        pool.release(held[0])
        assert pool.acquire(timeout=20).is_alive()


def test_a_release_serves_who_waits(backend: str) -> None:
    with SandboxPool(backend=backend, max_size=1) as pool, ThreadPoolExecutor(1) as thread:
        held = pool.acquire()
        waiting = thread.submit(pool.acquire, timeout=20)
        time.sleep(0.1)
        assert not waiting.done()
        pool.release(held)
        assert waiting.result(20).execute("echo mine").stdout == "mine\n"


def test_waiters_are_served_in_order(backend: str) -> None:
    """First come, first served; one that gave up is passed over."""
    served: list[int] = []
    with SandboxPool(backend=backend, max_size=1) as pool:
        held = pool.acquire()

        def wait(number: int, timeout: float) -> None:
            try:
                sandbox = pool.acquire(timeout=timeout)
            except PoolExhausted:
                return
            served.append(number)
            pool.release(sandbox)

        threads = []
        for number in range(5):
            timeout = 0.2 if number == 2 else 30
            threads.append(threading.Thread(target=wait, args=(number, timeout)))
            threads[-1].start()
            assert eventually(lambda: pool.statistics().waiting >= len(threads))
        threads[2].join()
        pool.release(held)
        for thread in threads:
            thread.join(30)
    assert served == [0, 1, 3, 4]


def test_spares_are_kept_warm(backend: str) -> None:
    """min_idle of them, refilled off the caller's path."""
    with SandboxPool(backend=backend, min_idle=3, max_size=8) as pool:
        assert eventually(lambda: pool.statistics().idle == 3)
        held = [pool.acquire() for _ in range(3)]
        assert eventually(lambda: pool.statistics().idle == 3)
        for sandbox in held:
            pool.release(sandbox)
        assert eventually(lambda: pool.statistics().leased == 0)


def test_a_dead_spare_is_never_lent(backend: str) -> None:
    with SandboxPool(backend=backend, min_idle=2, max_size=4) as pool:
        with pool.acquire() as probe:
            inside = members(probe)
        assert eventually(lambda: pool.statistics().idle == 2)
        assert inside
        spares = [pool.acquire(), pool.acquire()]
        doomed = spares[0]
        for pid in members(doomed):
            os.kill(pid, signal.SIGKILL)
        for sandbox in spares:
            pool.release(sandbox)
        for _ in range(6):
            with pool.acquire(timeout=20) as sandbox:
                assert sandbox.execute("echo alive").stdout == "alive\n"


def test_statistics_are_a_frozen_value(backend: str) -> None:
    with SandboxPool(backend=backend, max_size=3) as pool, pool.acquire():
        statistics = pool.statistics()
        assert dataclasses.is_dataclass(statistics)
        assert (statistics.leased, statistics.idle, statistics.waiting) == (1, 0, 0)
        with pytest.raises(dataclasses.FrozenInstanceError):
            statistics.leased = 7  # type: ignore[misc]


def test_closing(backend: str) -> None:
    """All ends: leases, spares and waits; twice is fine."""
    pool = SandboxPool(backend=backend, min_idle=1, max_size=2)
    held = [pool.acquire(), pool.acquire()]
    inside = members(held[0]) | members(held[1])
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(pool.acquire, timeout=None)
        running = threads.submit(held[0].execute, "touch started; sleep 1000")
        assert eventually(lambda: held[0].execute("test -e started").exit_code == 0)
        assert eventually(lambda: pool.statistics().waiting == 1)
        with within(5):
            pool.close()
            pool.close()
            with pytest.raises(PoolClosed):
                waiting.result(5)
            with pytest.raises(SandboxClosed):
                running.result(5)
    assert wait_gone(inside) == set()
    with pytest.raises(PoolClosed):
        pool.acquire()
    pool.release(held[0])


def test_forgetting_to_close_warns(backend: str) -> None:
    pool = SandboxPool(backend=backend, min_idle=1)
    deadline = time.monotonic() + 20
    while pool.statistics().idle < 1:  # in no closure, which would be one more reference
        assert time.monotonic() < deadline
        time.sleep(0.01)
    forgotten = [pool]
    del pool
    with pytest.warns(ResourceWarning):
        forget(forgotten)


def test_a_forgotten_pool_ends_its_sandboxes_where_warnings_are_errors(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = SandboxPool(backend=backend)
    sandbox = pool.acquire()
    inside = members(sandbox)
    forgotten: list[Any] = [pool]
    del pool, sandbox
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda it: unraisable.append(it.exc_type))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forget(forgotten)
    assert unraisable == [ResourceWarning]
    assert wait_gone(inside) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_idle": -1},
        {"max_size": 0},
        {"min_idle": 3, "max_size": 2},
        {"memory": "much"},
        {"backend": "no-such-backend"},
    ],
)
def test_nonsense_is_refused(backend: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        SandboxPool(**{"backend": backend, **arguments})


def test_making_one_costs_nothing(backend: str) -> None:
    """Without spares nothing starts before the first acquire."""
    with SandboxPool(backend=backend) as pool:
        assert pool.statistics().idle == 0


def test_resources_reach_the_sandboxes(backend: str) -> None:
    with SandboxPool(backend=backend, disk="4m", env={"A": "b"}) as pool, pool.acquire() as sandbox:
        assert "No space" in sandbox.execute("head -c 50m /dev/zero > fill").stderr
        assert sandbox.execute("echo $A").stdout == "b\n"


@pytest.mark.timeout(120)
def test_sixteen_threads_share_a_pool(backend: str) -> None:
    """Never more than max_size at once, and nobody starves."""
    with SandboxPool(backend=backend, min_idle=2, max_size=4) as pool:
        held = threading.Semaphore(4)

        def use(number: int) -> None:
            with pool.acquire(timeout=60) as sandbox:
                assert held.acquire(blocking=False), "more than max_size are lent"
                assert sandbox.execute(f"echo {number}").stdout == f"{number}\n"
                held.release()

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(use, range(100)))
        assert eventually(lambda: pool.statistics().leased == 0)


def test_nothing_outlives_the_owner_of_a_pool(backend: str) -> None:
    script = f"""
import sys, rock_gym
pool = rock_gym.SandboxPool(backend={backend!r}, min_idle=4)
held = [pool.acquire() for _ in range(3)]
while pool.statistics().idle < 4: pass
print("1", flush=True)
sys.stdin.readline()
"""
    with Owner(script) as owner:
        owner.tells()
        below = owner.below()
        assert len(below) > 7
        owner.kill()
        owner.process.wait(10)
        assert wait_gone(below) == set()
