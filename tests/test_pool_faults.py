"""What must not hurt a pool: descriptors that run out, forks, interrupts, a process that ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rock_gym import SandboxPool, default_pools, memory, stock
from rock_gym.errors import PoolClosed, PoolExhausted, StartFailed
from rock_gym.spec import SandboxSpec
from tests.contract.support import eventually, within
from tests.fakes import FakeBackend


@pytest.fixture
def fake() -> Iterator[Any]:
    backend = FakeBackend()
    yield backend
    assert not [container for container in backend.containers if container.alive]


def test_spares_come_back_after_descriptors_ran_out(fake: Any, caplog: Any) -> None:
    """An error of the system in a background start costs that start, and nothing later."""
    real = fake.start
    left = [3]

    def start(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*arguments)

    fake.start = start
    with SandboxPool(backend=fake, min_idle=1, max_starting=1) as pool:
        assert eventually(lambda: pool.statistics().idle == 1)
        assert (pool.statistics().failed, pool.statistics().starting) == (3, 0)
    assert "Too many open files" in caplog.text


def test_a_callback_that_fails_keeps_no_sandbox_alive(fake: Any) -> None:
    """Its error reaches who closes; all callbacks are called, and everything has ended."""
    called = []

    def fail() -> None:
        raise ValueError("a defect of the caller")

    pool = SandboxPool(backend=fake, min_idle=1)
    pool.acquire()
    pool.on_close(fail)
    pool.on_close(lambda: called.append(1))
    with pytest.raises(ValueError, match="a defect of the caller"):
        pool.close()
    assert called == [1]
    assert not [container for container in fake.containers if container.alive]


def test_whoever_closes_returns_when_all_has_ended(fake: Any) -> None:
    """The second of two threads that close waits for the first."""
    pool = SandboxPool(backend=fake)
    pool.acquire()
    entered, go_on = threading.Event(), threading.Event()

    def linger() -> None:
        entered.set()
        assert go_on.wait(30)

    pool.on_close(linger)
    first = threading.Thread(target=pool.close)
    first.start()
    assert entered.wait(10)
    ended_at_return: list[bool] = []

    def close_again() -> None:
        pool.close()
        ended_at_return.append(not fake.containers[0].alive)

    second = threading.Thread(target=close_again)
    second.start()
    second.join(0.1)
    assert second.is_alive()
    go_on.set()
    first.join(10)
    second.join(10)
    assert ended_at_return == [True]


def test_a_callback_may_close_the_pool(fake: Any) -> None:
    pool = SandboxPool(backend=fake)
    pool.acquire()
    pool.on_close(pool.close)
    with within(5):
        pool.close()


def test_growing_heeds_free_memory(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes beyond the size, not beyond the machine."""
    free = 1 << 40
    monkeypatch.setattr(stock, "available_bytes", lambda: free)
    with SandboxPool(backend=fake, max_size=1, exhausted="grow") as pool:
        pool.acquire_many(2)
        free = 1 << 20
        with pytest.raises(PoolExhausted, match="free memory"):
            pool.acquire(timeout=0.1)


def test_many_at_once_need_memory_for_each(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free is held against all that are to be started, not against the next one."""
    monkeypatch.setattr(stock, "total_bytes", lambda: 8 << 30)
    monkeypatch.setattr(stock, "available_bytes", lambda: 1 << 30)
    with SandboxPool(backend=fake) as pool:
        pool.acquire(timeout=5)
        with pytest.raises(PoolExhausted, match="free memory"):
            pool.acquire_many(1000, timeout=0.1)


def test_memory_is_promised_once(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pools of a process do not each set aside the whole machine."""
    monkeypatch.setattr(stock, "total_bytes", lambda: 10 << 30)
    monkeypatch.setattr(stock, "available_bytes", lambda: 9 << 30)
    one = SandboxPool(backend=fake, memory="3g", reserve=True)
    two = SandboxPool(backend=fake, memory="3g", reserve=True)
    with one, two:
        one.acquire_many(2)
        two.acquire()
        with pytest.raises(PoolExhausted, match="free memory"):
            two.acquire(timeout=0.1)
        one.close()
        assert two.acquire(timeout=10).is_alive()


def test_what_is_promised_must_be_free(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is promised memory that something else has taken."""
    monkeypatch.setattr(stock, "total_bytes", lambda: 10 << 30)
    monkeypatch.setattr(stock, "available_bytes", lambda: 2 << 30)
    with (
        SandboxPool(backend=fake, memory="3g", reserve=True) as pool,
        pytest.raises(PoolExhausted, match="free memory"),
    ):
        pool.acquire(timeout=0.1)


@pytest.mark.parametrize(
    ("group", "names", "stat"),
    [
        ("0::/a\n", ("a/memory.max", "a/memory.current", "a/memory.stat"), "active_file 1000\n"),
        (
            "4:memory:/a\n",
            (
                "memory/a/memory.limit_in_bytes",
                "memory/a/memory.usage_in_bytes",
                "memory/a/memory.stat",
            ),
            "active_file 7\ntotal_active_file 1000\n",
        ),
    ],
)
def test_cached_files_of_our_group_are_free(
    tmp_path: Any, group: str, names: tuple[str, ...], stat: str
) -> None:
    """The kernel drops them before the limit is met; a container that reads much has many."""
    prefix = "total_" if "total_" in stat else ""
    texts = ["5000\n", "4000\n", f"anon 1\n{prefix}inactive_file 2000\n{stat}"]
    files = {f"sys/fs/cgroup/{name}": text for name, text in zip(names, texts, strict=True)}
    files["proc/meminfo"] = "MemTotal: 8000 kB\nMemAvailable: 6000 kB\n"
    files["proc/self/cgroup"] = group
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert memory.available_bytes(tmp_path) == 4000


def in_a_fork(action: Any) -> int | None:
    """Run it in a forked child and return its exit code, None if it hangs."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    try:
        assert eventually(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# Python 3.12 and later warn of what this test is about.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_while_the_pool_is_busy_does_not_hang(fake: Any) -> None:
    """Whatever lock another thread held, the child can call anything: the pool is closed to it."""

    def in_child() -> None:
        pool.statistics()
        for forbidden in (pool.acquire, pool.drain, pool.resize, lambda: pool.on_close(print)):
            with pytest.raises(PoolClosed):
                forbidden()
        pool.release(held)
        pool.close()
        default_pools.close_default_pools()

    with SandboxPool(backend=fake, min_idle=1) as pool:
        held = pool.acquire()
        with pool._lock, default_pools._lock:  # as another thread may, at that moment
            assert in_a_fork(in_child) == 0
        assert held.is_alive()


def test_a_pool_of_a_spec_takes_all_that_decides_how_it_lends(fake: Any) -> None:
    spec = SandboxSpec.of(memory="1g")
    refused: list[Any] = []

    def verify(sandbox: Any) -> bool:
        refused.append(sandbox)
        return len(refused) > 1

    with SandboxPool.from_spec(
        spec, backend=fake, max_size=1, exhausted="fail", max_starting=1, verify=verify
    ) as pool:
        held = pool.acquire()
        assert held is refused[1]
        with pytest.raises(PoolExhausted):
            pool.acquire(timeout=30)


def test_a_process_that_ends_with_an_open_pool_ends_in_silence(backend: str) -> None:
    """Its sandboxes end before the backend does; nobody tries to start others meanwhile."""
    script = f"""
import rock_gym
pool = rock_gym.SandboxPool(backend={backend!r}, min_idle=3)
held = pool.acquire()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_failing_at_once_waits_for_what_is_on_its_way(fake: Any) -> None:
    """A sandbox that was given back is no reason to fail, though its end takes a moment."""
    with SandboxPool(backend=fake, max_size=1, exhausted="fail") as pool:
        for _ in range(200):
            pool.acquire().release()
        with pool.acquire(), within(5), pytest.raises(PoolExhausted, match="in use"):
            pool.acquire(timeout=None)


def test_dead_spares_make_room_for_who_finds_them(fake: Any) -> None:
    """They count until they are cleared away, which nobody else would do in a full pool."""
    with SandboxPool(backend=fake, min_idle=1, max_size=1) as pool:
        assert eventually(lambda: pool.statistics().idle == 1)
        fake.containers[0].alive = False
        assert pool.acquire(timeout=20).is_alive()


def test_a_start_that_works_ends_the_wait_for_the_next_try(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever found out: spares come at once, not when the last wait is over."""
    monkeypatch.setattr(stock, "_FIRST_RETRY_S", 1000.0)
    monkeypatch.setattr(stock, "_LAST_RETRY_S", 1000.0)
    fake.failures = 1
    with SandboxPool(backend=fake, min_idle=1) as pool:
        assert eventually(lambda: pool.statistics().failed == 1)
        pool.acquire()
        assert eventually(lambda: pool.statistics().idle == 1)


def test_spares_are_not_lent_beyond_the_size(fake: Any) -> None:
    """Nor are they kept where a smaller size leaves no room for them."""
    with SandboxPool(backend=fake, min_idle=2, max_size=6) as pool:
        held = pool.acquire_many(3)
        assert eventually(lambda: pool.statistics().idle == 2)
        pool.resize(max_size=3)
        assert pool.statistics().idle == 0
        with pytest.raises(PoolExhausted):
            pool.acquire(exhausted="fail")
        held[0].release()
        assert pool.acquire(timeout=10).is_alive()


def test_a_callers_failing_start_leaves_its_room_to_a_spare(fake: Any) -> None:
    """In a full pool, the thread that makes spares has gone to rest meanwhile."""
    fake.gate.clear()
    fake.failures = 1
    with SandboxPool(backend=fake, max_size=1) as pool:

        def fail() -> None:
            with pytest.raises(StartFailed):
                pool.acquire()

        caller = threading.Thread(target=fail)
        caller.start()
        assert eventually(lambda: fake.at_once == 1)
        pool.resize(min_idle=1)
        assert eventually(lambda: pool._hands.resting == 1)
        fake.gate.set()
        caller.join(10)
        assert eventually(lambda: pool.statistics().idle == 1)


def test_resizing_after_a_failure_tries_at_once(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "_FIRST_RETRY_S", 1000.0)
    monkeypatch.setattr(stock, "_LAST_RETRY_S", 1000.0)
    fake.failures = 1
    with SandboxPool(backend=fake, min_idle=1) as pool:
        assert eventually(lambda: pool.statistics().failed == 1)
        pool.resize(min_idle=2)
        assert eventually(lambda: pool.statistics().idle == 2)
