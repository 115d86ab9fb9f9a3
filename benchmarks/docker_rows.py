"""Rows of the table about containers, beside the same things by the engine's own API.

They need an engine with the images python:3.11 and, for GEM, rock-gym/gem.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.table import Samples, row, take_turns, timed
from rock_gym import Sandbox, SandboxPool
from rock_gym.gem.places import with_guest
from rock_gym.spec import SandboxSpec

IMAGE = "python:3.11"
GAME = "game:GuessTheNumber-v0-hard"
ACTION = "\\boxed{1}"


class Engine:
    """The engine's API as docker-py has it, with no care for anything."""

    def __init__(self) -> None:
        import docker

        self.api: Any = docker.APIClient(version="auto")
        self.api.headers["Connection"] = "close"

    def start(self) -> str:
        settings = self.api.create_host_config(network_mode="none")
        made: str = self.api.create_container(IMAGE, ["sleep", "1000"], host_config=settings)["Id"]
        self.api.start(made)
        return made

    def execute(self, container: str) -> bytes:
        made = self.api.exec_create(container, ["echo", "hi"])
        output: bytes = self.api.exec_start(made)
        assert self.api.exec_inspect(made)["ExitCode"] == 0
        return output

    def remove(self, container: str) -> None:
        self.api.remove_container(container, force=True)

    @contextmanager
    def container(self) -> Iterator[str]:
        made = self.start()
        try:
            yield made
        finally:
            self.remove(made)


@row(
    "docker: fresh sandbox to first command",
    floor="create, start and one exec by the engine's API",
    count=15,
    bar=1.15,
    against="ratio",
    unit="ms",
)
def first_command(count: int) -> Samples:
    engine = Engine()

    def ours() -> float:
        start = time.perf_counter()
        with Sandbox.start(IMAGE, backend="docker") as sandbox:
            assert sandbox.execute(["echo", "hi"]).stdout == "hi\n"
            return time.perf_counter() - start

    def floor() -> float:
        start = time.perf_counter()
        container = engine.start()
        assert engine.execute(container) == b"hi\n"
        took = time.perf_counter() - start
        engine.remove(container)
        return took

    return take_turns(ours, floor, count)


@row(
    "docker: session command",
    floor="one exec by the engine's API",
    count=500,
    bar=0.4,
    against="value",
    unit="ms",
)
def session_command(count: int) -> Samples:
    return session_commands(count)


@row(
    "docker: session command, run_dir=True",
    floor="one exec by the engine's API",
    count=500,
    bar=0.2,
    against="value",
    unit="ms",
)
def session_command_over_a_socket(count: int) -> Samples:
    return session_commands(count, run_dir=True)


def session_commands(count: int, **options: Any) -> Samples:
    engine = Engine()
    with (
        Sandbox.start(IMAGE, backend="docker", **options) as sandbox,
        engine.container() as container,
    ):
        bash = sandbox.create_session()
        few = take_turns(
            lambda: timed(lambda: bash.run("echo hi")),
            lambda: timed(lambda: engine.execute(container)),
            min(count, 20),
        )
        return Samples(
            [timed(lambda: bash.run("echo hi")) for _ in range(count)] + few.ours, few.floor
        )


@row(
    "docker: `execute` after the first",
    floor="one exec by the engine's API",
    count=50,
    bar=0.1,
    against="ratio",
    unit="ms",
)
def execute(count: int) -> Samples:
    engine = Engine()
    with Sandbox.start(IMAGE, backend="docker") as sandbox, engine.container() as container:
        return take_turns(
            lambda: timed(lambda: sandbox.execute(["echo", "hi"])),
            lambda: timed(lambda: engine.execute(container)),
            count,
        )


def gem_step(count: int, **options: Any) -> Samples:
    import gymnasium as gym

    import rock_gym
    from benchmarks.floors import GemInProcess

    gym.logger.min_level = gym.logger.ERROR
    found = Samples()
    batch = min(50, count)
    spec = with_guest(SandboxSpec.of(**options), backend="docker")
    with (
        SandboxPool.from_spec(spec, backend="docker") as pool,
        GemInProcess(GAME, ACTION) as raw,
    ):
        env: Any = rock_gym.make(GAME, pool=pool).unwrapped
        env.reset(seed=1)
        if options:
            # Like ours, which the table pins: with a socket the process is one of this machine.
            os.sched_setaffinity(env._worker.pid, os.sched_getaffinity(0))
        try:
            for number in range(-1, max(1, count // batch)):
                taken, floor = play(env, batch), raw.steps(batch)
                if number >= 0:
                    found.ours += taken
                    found.floor += floor
        finally:
            env.close()
    return found


@row(
    "docker: GEM step",
    floor="gem in process",
    count=3000,
    bar=300,
    against="value",
    unit="us",
)
def gem_step_over_the_stream(count: int) -> Samples:
    return gem_step(count)


@row(
    "docker: GEM step, run_dir=True",
    floor="gem in process",
    count=3000,
    bar=80,
    against="value",
    unit="us",
    cpus="one",
)
def gem_step_over_a_socket(count: int) -> Samples:
    return gem_step(count, run_dir=True)


def play(env: Any, count: int) -> list[float]:
    """Seconds that each of so many steps takes."""
    taken: list[float] = []
    env.reset(seed=1)
    while len(taken) < count:
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(ACTION)
        taken.append(time.perf_counter() - start)
        if terminated or truncated:
            env.reset(seed=1)
    return taken
