"""Many leases at once, work fanned out over them, and pools that change or come to an end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rock_gym import Sandbox, SandboxPool, fanout
from rock_gym.errors import (
    CommandFailed,
    FileError,
    PoolClosed,
    PoolExhausted,
    SandboxClosed,
    SpecError,
    StartFailed,
)
from tests.contract.support import eventually, within

# Many leases


def test_many_at_once(backend: str) -> None:
    """All are given together, each different, and all come back together."""
    with SandboxPool(backend=backend, min_idle=1, max_size=4) as pool:
        with pool.acquire_many(3) as sandboxes:
            assert len({sandbox.id for sandbox in sandboxes}) == 3
            assert pool.statistics().leased == 3
            assert [s.execute("echo here").stdout for s in sandboxes] == ["here\n"] * 3
        assert pool.statistics().leased == 0
        for sandbox in sandboxes:
            with pytest.raises(SandboxClosed):
                sandbox.execute("true")
        assert pool.acquire_many(0) == []


def test_many_are_given_whole_or_not_at_all(backend: str) -> None:
    """Who asks for two of two while one is lent holds nothing that another could use."""
    with SandboxPool(backend=backend, max_size=2) as pool:
        held = pool.acquire()
        with pytest.raises(PoolExhausted):
            pool.acquire_many(2, timeout=0.1)
        assert pool.statistics().leased == 1
        pool.acquire(timeout=20).release()
        with pytest.raises(SpecError, match="max_size"):
            pool.acquire_many(3)
        held.release()
        assert len(pool.acquire_many(2, timeout=20)) == 2


def test_callers_of_many_never_wait_for_each_others_half(backend: str) -> None:
    with SandboxPool(backend=backend, max_size=3) as pool, ThreadPoolExecutor(4) as threads:

        def use(_: int) -> None:
            with pool.acquire_many(2, timeout=60) as sandboxes:
                assert all(sandbox.is_alive() for sandbox in sandboxes)

        with within(60):
            list(threads.map(use, range(12)))


def test_a_single_caller_does_not_overtake_who_waits_for_many(backend: str) -> None:
    served: list[str] = []
    with SandboxPool(backend=backend, max_size=2) as pool:
        held = pool.acquire_many(2)

        def take(name: str, count: int) -> None:
            with pool.acquire_many(count, timeout=30):
                served.append(name)

        callers = [threading.Thread(target=take, args=("many", 2))]
        callers[0].start()
        assert eventually(lambda: pool.statistics().waiting == 1)
        callers.append(threading.Thread(target=take, args=("single", 1)))
        callers[1].start()
        assert eventually(lambda: pool.statistics().waiting == 2)
        held[0].release()
        held[1].release()
        for caller in callers:
            caller.join(30)
    assert served == ["many", "single"]


def test_exhaustion_by_choice(backend: str) -> None:
    """Fail at once, or grow beyond max_size, for the pool or for a call."""
    with SandboxPool(backend=backend, max_size=1, exhausted="fail") as pool:
        held = pool.acquire()
        with within(1), pytest.raises(PoolExhausted):
            pool.acquire(timeout=None)
        extra = pool.acquire(exhausted="grow")
        assert extra.is_alive()
        assert pool.statistics().leased == 2
        held.release()
        extra.release()
        assert pool.acquire(timeout=20, exhausted="wait").is_alive()
    with pytest.raises(SpecError, match="exhausted"):
        SandboxPool(backend=backend, exhausted="explode")  # type: ignore[arg-type]


def test_what_verify_refuses_is_replaced(backend: str) -> None:
    seen: list[str] = []

    def verify(sandbox: Any) -> bool:
        seen.append(sandbox.id)
        return len(seen) > 1 and sandbox.execute("echo fine").stdout == "fine\n"

    with SandboxPool(backend=backend, min_idle=1, max_size=3, verify=verify) as pool:
        with pool.acquire(timeout=30) as sandbox:
            assert [sandbox.id] == seen[1:]
        assert pool.statistics().refused == 1


def test_a_verify_that_likes_nothing_is_told_of(backend: str) -> None:
    def verify(sandbox: Any) -> bool:
        sandbox.read_file("no-such-file")
        return True

    with SandboxPool(backend=backend, max_size=3, verify=verify) as pool:
        with within(30), pytest.raises(StartFailed, match="verify="):
            pool.acquire(timeout=None)
        assert eventually(lambda: pool.statistics().ending == 0)
        assert pool.statistics().leased == 0


# Work


def test_results_come_in_order_with_errors_in_their_places(backend: str) -> None:
    commands = ["echo 0", "exit 1", "echo 2", "echo 3"]
    with SandboxPool(backend=backend, max_size=2) as pool:
        outcomes: list[Any] = pool.execute(commands, check=True)
        assert [type(outcome).__name__ for outcome in outcomes] == [
            "CommandResult",
            "CommandFailed",
            "CommandResult",
            "CommandResult",
        ]
        assert [outcomes[i].stdout for i in (0, 2, 3)] == ["0\n", "2\n", "3\n"]
        assert outcomes[1].exit_code == 1
        assert pool.execute([]) == []


def test_work_in_held_sandboxes_keeps_their_state(backend: str) -> None:
    with SandboxPool(backend=backend) as pool, pool.acquire_many(3) as sandboxes:
        pool.run_in_session("main", ["x=0", "x=1", "x=2"], sandboxes=sandboxes)
        results: list[Any] = pool.run_in_session("main", ["echo $x"] * 3, sandboxes=sandboxes)
        assert [result.output for result in results] == ["0\n", "1\n", "2\n"]
        files = {"d/a": "text", "b": b"\xff"}
        assert pool.write_files(files, sandboxes=sandboxes) == [None] * 3
        assert [s.read_file("d/a") for s in sandboxes] == ["text"] * 3
        assert [s.read_file("b", encoding=None) for s in sandboxes] == [b"\xff"] * 3
        lines: list[Any] = pool.execute(["cat d/a"] * 3, sandboxes=sandboxes)
        assert [line.stdout for line in lines] == ["text"] * 3
        assert pool.statistics().leased == 3


def test_map_tells_our_errors_from_others(backend: str) -> None:
    """Ours are outcomes; a mistake in the function itself is raised."""
    with SandboxPool(backend=backend, max_size=2) as pool:
        outcomes = pool.map(lambda sandbox, path: sandbox.read_file(path), ["missing", "/dev/null"])
        assert [type(outcome) for outcome in outcomes] == [FileError, FileError]
        with pytest.raises(ZeroDivisionError):
            pool.map(lambda sandbox, number: 1 // number, [1, 0, 1])
        assert eventually(lambda: pool.statistics().leased == 0)
        with pytest.raises(SpecError, match="one for each"):
            pool.map(lambda sandbox, item: item, [1, 2], sandboxes=[])


def test_a_dead_sandbox_is_one_outcome_among_others(backend: str) -> None:
    with SandboxPool(backend=backend) as pool, pool.acquire_many(2) as sandboxes:
        sandboxes[0].stop()
        outcomes: list[Any] = pool.execute(["echo a", "echo b"], sandboxes=sandboxes)
        assert isinstance(outcomes[0], SandboxClosed)
        assert outcomes[1].stdout == "b\n"


def test_progress_is_shown_when_asked_for(
    backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fanout, "_BAR_AFTER_S", 0.0)
    with SandboxPool(backend=backend, max_size=2) as pool:
        pool.execute(["true"] * 2)
        assert capsys.readouterr().err == ""
        outcomes: list[Any] = pool.execute(["exit 4"] * 3, progress=True)
        assert [outcome.exit_code for outcome in outcomes] == [4] * 3
        assert "3/3" in capsys.readouterr().err


# Change and end


def test_resizing(backend: str) -> None:
    """More spares come, fewer stay; leases beyond a smaller size are left alone."""
    with SandboxPool(backend=backend) as pool:
        pool.resize(min_idle=2)
        assert eventually(lambda: pool.statistics().idle == 2)
        held = pool.acquire_many(2)
        pool.resize(min_idle=0, max_size=1)
        assert eventually(lambda: pool.statistics().idle == pool.statistics().starting == 0)
        assert all(sandbox.is_alive() for sandbox in held)
        held[0].release()
        with pytest.raises(PoolExhausted):
            pool.acquire(timeout=0.1)
        held[1].release()
        assert pool.acquire(timeout=20).is_alive()
        with pytest.raises(SpecError):
            pool.resize(min_idle=2)


def test_a_larger_size_serves_who_waits(backend: str) -> None:
    with SandboxPool(backend=backend, max_size=1) as pool, ThreadPoolExecutor(1) as thread:
        held = pool.acquire()
        waiting = thread.submit(pool.acquire, timeout=30)
        assert eventually(lambda: pool.statistics().waiting == 1)
        pool.resize(max_size=2)
        assert waiting.result(30).is_alive()
        assert held.is_alive()


def test_draining(backend: str) -> None:
    """Leases run on to their end, nobody gets another, and then the pool is closed."""
    with SandboxPool(backend=backend, min_idle=1, max_size=3) as pool:
        held = pool.acquire()
        with ThreadPoolExecutor(1) as thread:
            with pytest.raises(PoolExhausted, match="1 leases"):
                pool.drain(timeout=0.1)
            with pytest.raises(PoolClosed, match="drained"):
                pool.acquire()
            assert held.execute("echo goes on").stdout == "goes on\n"
            ending = thread.submit(held.release)
            assert eventually(lambda: pool.statistics().leased == 0)
            ending.result(10)
    assert pool.closed
    with SandboxPool(backend=backend) as pool, ThreadPoolExecutor(1) as thread:
        held = pool.acquire()
        draining = thread.submit(pool.drain)
        assert eventually(lambda: pool._draining)
        assert not draining.done()
        held.release()
        draining.result(20)
        assert pool.closed


def test_a_release_does_not_wait_for_the_end(backend: str) -> None:
    """What was released cannot be used from that moment, whenever it ends."""
    with SandboxPool(backend=backend, max_size=8) as pool:
        sandboxes = pool.acquire_many(4)
        for sandbox in sandboxes:
            sandbox.release()
            with pytest.raises(SandboxClosed, match="released"):
                sandbox.execute("true")
        assert eventually(lambda: pool.statistics().ending == 0)


def test_a_command_that_runs_on_ends_with_the_lease(backend: str) -> None:
    with SandboxPool(backend=backend) as pool, ThreadPoolExecutor(1) as thread:
        sandbox = pool.acquire()
        running = thread.submit(sandbox.execute, "touch started; sleep 1000")
        assert eventually(lambda: sandbox.execute("test -e started").exit_code == 0)
        sandbox.release()
        with within(10), pytest.raises(SandboxClosed):
            running.result(10)


def test_a_failure_in_the_block_gives_the_lease_back(backend: str) -> None:
    with SandboxPool(backend=backend, max_size=1) as pool:
        with pytest.raises(CommandFailed), pool.acquire() as sandbox:
            sandbox.execute("exit 3", check=True)
        assert pool.acquire(timeout=20).is_alive()


def test_work_that_fails_ends_what_runs_beside_it(backend: str) -> None:
    """Nobody waits ten minutes for commands whose results nobody will get."""
    with SandboxPool(backend=backend, max_size=3) as pool:
        running = threading.Barrier(3)

        def work(sandbox: Sandbox, number: int) -> None:
            running.wait(30)
            if number == 0:
                raise ValueError("a defect of the caller")
            sandbox.execute("sleep 1000")

        with within(20), pytest.raises(ValueError, match="a defect of the caller"):
            pool.map(work, range(9))
        assert pool.statistics().leased == 0
        assert pool.acquire(timeout=20).is_alive()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As on a terminal, whatever runs these tests ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_work_and_gives_all_back(backend: str, interruptible: None) -> None:
    """Ctrl-C in a long piece of work is obeyed at once."""
    with SandboxPool(backend=backend, max_size=2) as pool:
        timer = threading.Thread(
            target=lambda: (
                eventually(lambda: pool.statistics().leased == 2),
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT),
            )
        )
        timer.start()
        with within(20), pytest.raises(KeyboardInterrupt):
            pool.execute(["sleep 1000"] * 5)
        timer.join()
        assert pool.statistics().leased == 0
