"""How a pool decides, with sandboxes that are not there: faults and timing that cannot be had."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rock_gym import SandboxPool, memory, stock
from rock_gym.errors import BackendUnavailable, PoolExhausted, SpecError, StartFailed
from rock_gym.spec import SandboxSpec
from tests.contract.support import eventually


class FakeContainer:
    """A container of which only its life is real."""

    def __init__(self, sandbox_id: str) -> None:
        self.id = sandbox_id
        self.alive = True

    def is_alive(self) -> bool:
        return self.alive

    def kill(self) -> None:
        self.alive = False


class FakeBackend:
    """Starts containers that do nothing, fails when told to, and notes how many start at once."""

    name = "fake"
    capabilities: Any = None

    def __init__(self) -> None:
        self.containers: list[FakeContainer] = []
        self.failures = 0
        self.tries = 0
        self.at_once = self.most_at_once = 0
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def check(self, spec: SandboxSpec) -> None:
        pass

    def start(self, spec: SandboxSpec, sandbox_id: str, timeout_s: float = 60.0) -> Any:
        with self._lock:
            self.tries += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            assert self.gate.wait(30)
            with self._lock:
                if self.failures:
                    self.failures -= 1
                    raise StartFailed("not today")
                self.containers.append(FakeContainer(sandbox_id))
                return self.containers[-1]
        finally:
            with self._lock:
                self.at_once -= 1

    def close(self) -> None:
        pass


@pytest.fixture
def backend() -> Iterator[Any]:
    fake = FakeBackend()
    yield fake
    assert not [container for container in fake.containers if container.alive]


def test_starts_are_bounded(backend: Any) -> None:
    """However many callers and spares there are, few sandboxes start at the same time."""
    backend.gate.clear()
    with SandboxPool(backend=backend, min_idle=8, max_starting=3) as pool:
        callers = [threading.Thread(target=lambda: pool.acquire().release()) for _ in range(8)]
        for caller in callers:
            caller.start()
        assert eventually(lambda: backend.at_once == 3)
        backend.gate.set()
        for caller in callers:
            caller.join()
        assert eventually(lambda: pool.statistics().idle == 8)
        assert backend.most_at_once == 3


def test_spares_are_tried_again_less_and_less_often(backend: Any, caplog: Any) -> None:
    backend.failures = 3
    with SandboxPool(backend=backend, min_idle=1, max_starting=1) as pool:
        assert eventually(lambda: pool.statistics().idle == 1)
        assert pool.statistics().failed == 3
        assert backend.tries == 4
    assert caplog.text.count("a spare sandbox did not start") == 3


def test_a_failing_start_is_the_callers_error_and_leaves_room(backend: Any) -> None:
    with SandboxPool(backend=backend, max_size=2) as pool:
        backend.failures = 1
        with pytest.raises(StartFailed):
            pool.acquire()
        backend.failures = 1
        with pytest.raises(StartFailed):
            pool.acquire_many(2)
        assert eventually(lambda: pool.statistics().ending == 0)
        assert len(pool.acquire_many(2, timeout=10)) == 2


def test_close_wakes_a_pool_that_waits_to_try_again(backend: Any) -> None:
    backend.failures = 1000
    with SandboxPool(backend=backend, min_idle=1) as pool:
        assert eventually(lambda: pool.statistics().failed >= 2)
    assert pool.statistics().starting == 0


def test_dead_spares_are_counted_and_replaced(backend: Any) -> None:
    with SandboxPool(backend=backend, min_idle=2) as pool:
        assert eventually(lambda: pool.statistics().idle == 2)
        for container in backend.containers:
            container.alive = False
        sandboxes = pool.acquire_many(2)
        assert all(sandbox.is_alive() for sandbox in sandboxes)
        assert pool.statistics().refused == 2


def test_memory_that_is_really_free_decides(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ceiling far above what is free starts nothing less; little free memory does."""
    free = 1 << 40
    monkeypatch.setattr(stock, "available_bytes", lambda: free)
    with SandboxPool(backend=backend, memory="60t") as pool:
        pool.acquire()
        free = 1 << 20
        with pytest.raises(PoolExhausted, match="free memory"):
            pool.acquire(timeout=0.1)
        waiting = threading.Thread(target=pool.acquire)
        waiting.start()
        assert eventually(lambda: pool.statistics().waiting == 1)
        free = 1 << 40
        waiting.join(20)
        assert pool.statistics().leased == 2


def test_reserved_memory_is_counted_in_full(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "total_bytes", lambda: 10 << 30)
    with SandboxPool(backend=backend, memory="3g", reserve=True) as pool:
        held = pool.acquire_many(3)
        with pytest.raises(PoolExhausted, match="free memory"):
            pool.acquire(timeout=0.1)
        held[0].release()
        assert pool.acquire(timeout=10).is_alive()
    with pytest.raises(SpecError, match="memory="):
        SandboxPool(backend=backend, reserve=True)


def test_a_backend_that_is_no_more_is_told_of(backend: Any, monkeypatch: Any) -> None:
    def start(*_: Any) -> Any:
        raise BackendUnavailable("the engine has gone")

    with SandboxPool(backend=backend) as pool:
        monkeypatch.setattr(backend, "start", start)
        with pytest.raises(BackendUnavailable):
            pool.acquire()


# How much memory there is

MEMINFO = "MemTotal:       8000 kB\nMemFree:        1 kB\nMemAvailable:   6000 kB\n"


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    for path, text in {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "available", "total"),
    [
        ("0::/\n", {}, 6000, 8000),
        (
            "0::/a/b\n",
            {
                "sys/fs/cgroup/a/memory.max": f"{5000 << 10}\n",
                "sys/fs/cgroup/a/memory.current": f"{1000 << 10}\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.current": "0\n",
            },
            4000,
            5000,
        ),
        (
            "5:cpu:/x\n4:memory:/x\n0::/\n",
            {
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{3000 << 10}\n",
                "sys/fs/cgroup/memory/x/memory.usage_in_bytes": f"{4000 << 10}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
            },
            0,
            3000,
        ),
    ],
)
def test_memory(
    tmp_path: Path, cgroup: str, files: dict[str, str], available: int, total: int
) -> None:
    """The machine's, or what the strictest group around us leaves, in either version."""
    root = machine(tmp_path, cgroup, files)
    assert memory.available_bytes(root) == available << 10
    assert memory.total_bytes(root) == total << 10


def test_memory_of_this_machine() -> None:
    assert 0 < memory.available_bytes() <= memory.total_bytes()
