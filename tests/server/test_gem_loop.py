"""An environment on an event loop, by itself: what cannot be timed from the other side of HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rock_gym import SandboxPool
from rock_gym.envs import GemEnv, SandboxVectorEnv
from rock_gym.envs.misuse import EnvClosed, ResetNeeded
from rock_gym.envs.vector_leases import Leases
from rock_gym.errors import EnvError, SandboxLost
from rock_gym.gem.places import choose_backend
from rock_gym.server.failures import Refused
from rock_gym.server.gem_batch import BatchEnv, OnLoop
from rock_gym.server.gem_entry import GemEntry
from rock_gym.server.gem_envs import GemEnvs
from rock_gym.server.gem_loop import LoopListener
from rock_gym.server.gem_loop_env import LoopEnv
from rock_gym.server.gem_turns import Limits
from rock_gym.server.settings import Settings
from rock_gym.server.state import ServerState
from rock_gym.spec import SandboxSpec
from tests.gem.local import pid_of

GUESS = "game:GuessTheNumber-v0-hard"


@pytest.fixture(scope="module")
def pool(backend: str) -> Iterator[SandboxPool]:
    name, spec = choose_backend(SandboxSpec(), None, backend)
    with SandboxPool.from_spec(spec, backend=name) as pool:
        yield pool


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run something on an event loop of each kind."""
    if request.param == "asyncio":
        return asyncio.run
    uvloop = pytest.importorskip("uvloop")
    with_uvloop: Callable[[Coroutine[Any, Any, None]], None] = uvloop.run
    return with_uvloop


@asynccontextmanager
async def made(pool: SandboxPool, step_s: float = 30.0) -> AsyncIterator[tuple[LoopEnv, GemEnv]]:
    """Make an environment, and close it."""
    async with unprepared(pool, step_s) as (served, env):
        await served.prepare(False)
        yield served, env


@asynccontextmanager
async def unprepared(
    pool: SandboxPool, step_s: float = 30.0
) -> AsyncIterator[tuple[LoopEnv, GemEnv]]:
    """Begin to make one, and close it."""
    env = GemEnv(GUESS, pool=pool, step_timeout=step_s)
    loop = asyncio.get_running_loop()
    leases = Leases(2)
    served = LoopEnv(
        env,
        0,
        LoopListener(),
        leases,
        Limits(step_s, 60.0),
        lambda call: loop.run_in_executor(None, call),
    )
    try:
        yield served, env
    finally:
        await served.close()
        leases.join(10)


Run = Callable[[Coroutine[Any, Any, None]], None]


def test_calls_at_once_are_refused(pool: SandboxPool, run: Run) -> None:
    async def main() -> None:
        async with made(pool) as (served, _):
            await served.reset(1)
            first = asyncio.ensure_future(served.step("\\boxed{1}"))
            await asyncio.sleep(0)
            assert served.busy
            with pytest.raises(Refused, match="under way"):
                await served.step("\\boxed{2}")
            assert "turn 1" in (await first)["observation"]
            assert "turn 2" in (await served.step("\\boxed{2}"))["observation"]

    run(main())


def test_a_reset_gives_up_what_is_under_way(pool: SandboxPool, run: Run) -> None:
    async def main() -> None:
        async with made(pool) as (served, _):
            begun = await served.reset(1)
            step = asyncio.ensure_future(served.step("\\boxed{1}"))
            await asyncio.sleep(0)
            again = await served.reset(1)
            with pytest.raises(Refused, match="reset"):
                await step
            assert again == begun
            assert "turn 1" in (await served.step("\\boxed{1}"))["observation"]

    run(main())


def test_closing_ends_what_is_under_way(pool: SandboxPool, run: Run) -> None:
    async def main() -> None:
        async with made(pool) as (served, _):
            await served.reset(1)
            step = asyncio.ensure_future(served.step("\\boxed{1}"))
            await asyncio.sleep(0)
            await served.close()
            with pytest.raises(EnvClosed):
                await step

    run(main())


def test_closing_ends_a_lease_that_is_under_way(pool: SandboxPool, run: Run) -> None:
    async def main() -> None:
        async with made(pool) as (first, _), unprepared(pool) as (served, _):
            making = asyncio.ensure_future(served.prepare(False))
            await asyncio.sleep(0)
            assert served.busy
            await served.close()
            with pytest.raises(EnvClosed):
                await making
            assert await first.reset(1)

    run(main())


def test_a_step_that_takes_too_long(pool: SandboxPool, run: Run) -> None:
    async def main() -> None:
        async with made(pool, step_s=0.8) as (served, env):
            await served.reset(1)
            await served.step("\\boxed{1}")
            stopped = pid_here(env)
            os.kill(stopped, signal.SIGSTOP)
            with pytest.raises(TimeoutError, match=r"longer than 0\.8 s"):
                await served.step("\\boxed{2}")
            with pytest.raises(ResetNeeded):
                await served.step("\\boxed{2}")
            await served.reset(1)
            assert "turn 1" in (await served.step("\\boxed{1}"))["observation"]

    run(main())


def test_who_has_answered_is_not_late_because_the_loop_was_busy(
    pool: SandboxPool, run: Run
) -> None:
    async def main() -> None:
        async with made(pool, step_s=0.2) as (served, env):
            await served.reset(1)
            step = asyncio.ensure_future(served.step("\\boxed{1}"))
            await asyncio.sleep(0)
            loop = asyncio.get_running_loop()

            def be_busy() -> None:
                loop.remove_reader(event)
                assert env.worker is not None
                assert select.select([env.worker], [], [], 30)[0]
                while served._player.deadline > time.monotonic():
                    time.sleep(0.01)

            # After what is done for a descriptor, some loops look at the clock first.
            event = os.eventfd(1)
            loop.add_reader(event, be_busy)
            try:
                assert "turn 1" in (await step)["observation"]
            finally:
                os.close(event)

    run(main())


def test_the_timer_of_an_earlier_step_ends_no_later_one(pool: SandboxPool, run: Run) -> None:
    async def main() -> None:
        async with made(pool) as (served, _):
            await served.reset(1)
            step = asyncio.ensure_future(served.step("\\boxed{1}"))
            await asyncio.sleep(0)
            served._on_time()  # as if it fired now
            assert "turn 1" in (await step)["observation"]

    run(main())


def test_a_process_that_ends_between_calls(pool: SandboxPool, run: Run) -> None:
    """Its end is heard once, and told to whoever asks next."""

    async def main() -> None:
        async with made(pool) as (served, env):
            await served.reset(1)
            await served.step("\\boxed{1}")
            loop = asyncio.get_running_loop()
            pid = pid_here(env)
            handle = os.pidfd_open(pid)
            ended = loop.create_future()
            loop.add_reader(handle, lambda: ended.done() or ended.set_result(None))
            os.kill(pid, signal.SIGKILL)
            await ended
            loop.remove_reader(handle)
            os.close(handle)
            woken = count_wakes(served)
            await asyncio.sleep(0.05)
            assert woken() <= 1
            with pytest.raises((EnvError, SandboxLost)):
                await served.step("\\boxed{2}")
            await served.reset(1)
            assert "turn 1" in (await served.step("\\boxed{1}"))["observation"]

    run(main())


def test_a_sandbox_that_is_lost_is_replaced(pool: SandboxPool, run: Run) -> None:
    async def main() -> None:
        async with made(pool) as (served, env):
            first = await served.reset(1)
            assert env.sandbox is not None
            env.sandbox.delete()
            with pytest.raises(SandboxLost):
                await served.step("\\boxed{1}")
            assert await served.reset(1) == first

    run(main())


@asynccontextmanager
async def batch(
    pool: SandboxPool, step_s: float = 30.0
) -> AsyncIterator[tuple[BatchEnv, SandboxVectorEnv, OnLoop]]:
    """Make a batch of two and begin an episode in both."""
    loop = asyncio.get_running_loop()
    envs = SandboxVectorEnv(gem_id=GUESS, num_envs=2, pool=pool, step_timeout=step_s)
    way = OnLoop()
    served = BatchEnv(lambda: envs, 2, lambda call: loop.run_in_executor(None, call), way)
    await served.prepare(False)
    try:
        await served.reset(1, None)
        yield served, envs, way
    finally:
        await served.close()


async def guessed(served: BatchEnv, number: int = 1) -> dict[str, Any]:
    answer = await served.step([f"\\boxed{{{number}}}"] * 2, None)
    turn: dict[str, Any] = json.loads(bytes(answer))
    return turn


def test_the_loop_goes_on_while_a_batch_waits(pool: SandboxPool, run: Run) -> None:
    async def main() -> None:
        async with batch(pool) as (slow, envs, _), batch(pool) as (other, _, _):
            stopped = pid_here(envs.envs[1])
            os.kill(stopped, signal.SIGSTOP)
            try:
                step = asyncio.ensure_future(guessed(slow))
                for number in (1, 2, 3):
                    turn = await guessed(other, number)
                    assert all(f"turn {number}" in text for text in turn["observation"])
                assert not step.done()
                assert slow.busy
            finally:
                os.kill(stopped, signal.SIGCONT)
            assert all("turn 1" in text for text in (await step)["observation"])
            assert not slow.busy

    run(main())


def test_one_of_a_batch_takes_too_long(pool: SandboxPool, run: Run) -> None:
    """The timer ends it, though nothing comes any more; and so again in the next turns."""

    async def main() -> None:
        async with batch(pool, step_s=0.8) as (served, envs, _):
            for _ in range(2):
                os.kill(pid_here(envs.envs[1]), signal.SIGSTOP)
                turn = await guessed(served)
                assert turn["truncated"] == [False, True]
                assert turn["info"]["fault"] == [None, "step_timeout"]
                turn = await guessed(served, 2)
                assert "turn" in turn["observation"][0]
                assert "fault" not in turn["info"]

    run(main())


def test_a_process_of_a_batch_that_ends_between_calls(pool: SandboxPool, run: Run) -> None:
    """Its end is heard once, and is a fault in the next turn."""

    async def main() -> None:
        async with batch(pool) as (served, envs, way):
            await guessed(served)
            heard, count, once = way._heard, 0, asyncio.Event()

            def counted(envs: SandboxVectorEnv) -> None:
                nonlocal count
                count += 1
                once.set()
                heard(envs)

            loop = asyncio.get_running_loop()
            loop.add_reader(envs.fileno(), counted, envs)
            os.kill(pid_here(envs.envs[0]), signal.SIGKILL)
            await asyncio.wait_for(once.wait(), 30)
            for _ in range(100):  # in each of which the loop would hear it again
                await asyncio.sleep(0)
            assert count == 1
            turn = await guessed(served, 2)
            assert turn["info"]["fault"] == ["env_error", None]
            assert "turn 2" in turn["observation"][1]

    run(main())


def test_a_call_to_a_batch_that_is_given_up(pool: SandboxPool, run: Run) -> None:
    """Its answers are nobody's, and a reset begins anew."""

    async def main() -> None:
        async with batch(pool) as (served, envs, _):
            first = await served.reset(1, None)
            stopped = pid_here(envs.envs[1])
            os.kill(stopped, signal.SIGSTOP)
            step = asyncio.ensure_future(guessed(served))
            await asyncio.sleep(0)
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
            os.kill(stopped, signal.SIGCONT)
            assert not served.busy
            with pytest.raises(ResetNeeded):
                await guessed(served)
            assert await served.reset(1, None) == first
            assert all("turn 1" in text for text in (await guessed(served))["observation"])

    run(main())


def test_what_breaks_while_a_batch_is_taken_in(
    pool: SandboxPool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised by the call that waits; while none does, it is told all the same."""

    async def main() -> None:
        told: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        async with batch(pool) as (served, envs, way):

            def broken() -> None:
                raise ValueError("broken")

            with monkeypatch.context() as patch:
                patch.setattr(envs, "take_in", broken)
                with pytest.raises(ValueError, match="broken"):
                    await guessed(served)
                loop.call_soon(way._heard, envs)
                while not told:
                    await asyncio.sleep(0.01)
            assert str(told[0]["exception"]) == "broken"
            assert await served.reset(1, None)

    run(main())


def pid_here(env: Any) -> int:
    assert env.worker is not None
    return pid_of(env.worker)


def count_wakes(served: LoopEnv) -> Callable[[], int]:
    """Count how often the loop finds something to hear from now on."""
    count = 0
    listener, heard = served._listener, served._heard

    def counted() -> None:
        nonlocal count
        count += 1
        heard()

    fd = listener._watched.get(0)
    if fd is not None:
        listener.loop.add_reader(fd, counted)
    return lambda: count


def test_kinds_of_sandboxes_that_nobody_uses_are_ended(backend: str) -> None:
    """Whatever limits clients ask for, the pools of a few kinds are kept, and those in use."""

    async def main() -> None:
        state = ServerState(Settings(backend=backend))
        envs = GemEnvs(state)
        specs = [SandboxSpec.of(memory=f"{700 + number}m") for number in range(8)]
        first = await envs._pool(specs[0])
        run = state.threads.run
        batch = BatchEnv(lambda: None, 2, run, OnLoop())
        entry = GemEntry("used", state, batch, [GUESS], first, specs[0], 9)
        state.registry.add(entry, {})
        pools = [await envs._pool(spec) for spec in specs]
        assert [pool.closed for pool in pools] == [False, True, True, True, *[False] * 4]
        assert not (await envs._pool(specs[1])).closed
        await state.stop()
        assert all(pool.closed for pool in pools)

    asyncio.run(main())
