"""Rows of the table about containers, beside the same things by the engine's own API.

They need an engine with the images python:3.11 and, for GEM, rock-gym/gem.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.docker_cli import DOCKER_EXEC, IMAGE, docker_beside
from benchmarks.games import ACTION, GUESS, play
from benchmarks.table import (
    Samples,
    Side,
    at_most,
    compare,
    faster,
    of_floor,
    repeat,
    row,
    take_turns,
    timed,
)
from rock_gym import Sandbox, SandboxPool
from rock_gym.gem.places import with_guest
from rock_gym.spec import SandboxSpec

CONTAINERS = "a container without a network on each side"


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
    what="from `Sandbox.start` to the result of `echo`",
    isolation=CONTAINERS,
    floor="create, start and one exec by the engine's API",
    count=15,
    bars=[of_floor(1.15)],
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
    "docker: session command, builtin",
    what="`session.run('echo hi')`, with its output and exit code",
    isolation=CONTAINERS,
    floor="one exec by the engine's API",
    count=500,
    bars=[at_most(0.4)],
    unit="ms",
)
def session_command(count: int) -> Samples:
    return session_commands(count)


@row(
    "docker: session command, run_dir=True",
    what="the same over a socket",
    isolation=CONTAINERS,
    floor="one exec by the engine's API",
    count=500,
    bars=[at_most(0.2)],
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
    "docker: `execute`",
    what="`sandbox.execute(['true'])` after the first, with its true exit code",
    isolation=CONTAINERS,
    peers=[DOCKER_EXEC],
    floor="one exec by the engine's API",
    count=200,
    bars=[faster(20)],
    unit="ms",
)
def execute(count: int) -> Samples:
    engine = Engine()
    with (
        ExitStack() as stack,
        Sandbox.start(IMAGE, backend="docker") as sandbox,
        engine.container() as container,
    ):
        return compare(
            count,
            Side(repeat(lambda: timed(lambda: sandbox.execute(["true"]))), 5),
            Side(repeat(lambda: timed(lambda: engine.execute(container)))),
            *docker_beside(stack, DOCKER_EXEC, lambda docker: timed(docker.exec_true)),
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
        GemInProcess(GUESS, ACTION) as raw,
    ):
        env: Any = rock_gym.make(GUESS, pool=pool).unwrapped
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
    what="`env.step`, over the engine's stream",
    isolation="ours in a container, the floor in none",
    floor="gem in process",
    count=3000,
    bars=[at_most(300)],
    unit="us",
)
def gem_step_over_the_stream(count: int) -> Samples:
    return gem_step(count)


@row(
    "docker: GEM step, run_dir=True",
    what="`env.step`, over a socket",
    isolation="ours in a container, the floor in none",
    floor="gem in process",
    count=3000,
    bars=[at_most(80)],
    unit="us",
    cpus="one",
)
def gem_step_over_a_socket(count: int) -> Samples:
    return gem_step(count, run_dir=True)
