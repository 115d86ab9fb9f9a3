"""What a sandbox uses, read from outside and without waiting."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rock_gym.backends.base import Statistics
from rock_gym.errors import CommandTimeout, SandboxClosed, SandboxLost
from tests.contract.support import eventually, members, within

LIMITS = ({}, {"memory": "256m", "cpus": 1, "pids": 100})


@pytest.fixture(params=LIMITS, ids=["plain", "limited"])
def measured(request: pytest.FixtureRequest, start: Any) -> Any:
    """A sandbox whose figures come from the process table, and one with control groups."""
    return start(**request.param)


def test_the_fields(start: Any) -> None:
    figures = start(memory="128m", disk="32m").statistics()
    assert isinstance(figures, Statistics)
    assert figures.disk_limit_bytes in (None, 32 << 20)
    assert figures.memory_limit_bytes in (None, 128 << 20)
    for name in ("cpu_s", "memory_bytes", "disk_bytes", "processes"):
        value = getattr(figures, name)
        assert value is None or value >= 0, name
    with pytest.raises(AttributeError):
        figures.cpu_s = 1  # type: ignore[misc]


def test_a_limit_that_nobody_holds_is_not_claimed(start: Any) -> None:
    sandbox = start(memory="128m")
    claimed = sandbox.statistics().memory_limit_bytes is not None
    assert claimed == (sandbox.capabilities.memory == "cgroup")


def test_cpu(measured: Any) -> None:
    session = measured.create_session()
    before = measured.statistics().cpu_s
    session.run("n=0; while [ $n -lt 300000 ]; do n=$((n+1)); done")
    after = measured.statistics().cpu_s
    assert after - before > 0.05


def test_memory(measured: Any) -> None:
    before = measured.statistics().memory_bytes
    session = measured.create_session()
    session.run(
        "(python3 -I -S -c 'held = bytearray(60 << 20); print(1); input()' "
        "< /dev/zero >/dev/null 2>&1 &)"
    )
    assert eventually(lambda: measured.statistics().memory_bytes - before > 50 << 20)


def test_disk(measured: Any) -> None:
    before = measured.statistics().disk_bytes
    measured.write_file("f", b"x" * (5 << 20))
    assert (5 << 20) <= measured.statistics().disk_bytes - before <= (6 << 20)
    measured.execute("rm f")
    assert measured.statistics().disk_bytes - before < (1 << 20)


def test_processes(measured: Any) -> None:
    session = measured.create_session()
    session.run("true")
    assert eventually(lambda: measured.statistics().processes <= 3)
    before = measured.statistics().processes
    session.run("for n in 1 2 3 4 5; do sleep 60 & done")
    assert measured.statistics().processes >= before + 5 - 1


def test_network(measured: Any) -> None:
    figures = measured.statistics()
    assert (figures.network_rx_bytes, figures.network_tx_bytes) == (0, 0)
    measured.execute(
        ["python3", "-I", "-S", "-c",
         "import socket\n"
         "a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(('127.0.0.1', 0))\n"
         "a.sendto(b'x' * 1000, a.getsockname())"]
    )  # fmt: skip
    figures = measured.statistics()
    assert (figures.network_rx_bytes, figures.network_tx_bytes) == (0, 0), "loopback is apart"


def test_it_waits_for_nothing_inside(measured: Any) -> None:
    """Also when everything in there is frozen."""
    session = measured.create_session()
    session.run("sleep 60 &")
    inside = members(measured)
    for pid in inside:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        with within(1):
            for _ in range(20):
                assert measured.statistics().processes >= 2
    finally:
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_under_a_fork_bomb(start: Any) -> None:
    sandbox = start(pids=100)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(
            sandbox.execute, "bomb() { bomb | bomb & }; bomb; sleep 60", timeout=2
        )
        for _ in range(50):
            assert sandbox.statistics().processes >= 1
        with pytest.raises(CommandTimeout):
            running.result()


def test_after_the_end(start: Any) -> None:
    stopped, lost = start(), start()
    stopped.stop()
    with pytest.raises(SandboxClosed):
        stopped.statistics()
    for pid in sorted(members(lost)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not lost.is_alive())
    with pytest.raises(SandboxLost):
        lost.statistics()


def test_asking_while_it_ends(start: Any) -> None:
    """A figure of another process is never returned: figures, or a typed error."""
    for _ in range(10):
        sandbox = start()
        sandbox.execute("true")
        with ThreadPoolExecutor(1) as thread:
            stopping = thread.submit(sandbox.stop)
            while not stopping.done():
                try:
                    assert sandbox.statistics().processes < 10
                except (SandboxClosed, SandboxLost):
                    break
            stopping.result()
        sandbox.delete()
