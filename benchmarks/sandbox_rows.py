"""What a sandbox and a command in it cost."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import ExitStack
from functools import partial

from benchmarks.docker_cli import CONTAINER, DOCKER_RUN, DockerCli, docker_beside
from benchmarks.peers.process import Peers
from benchmarks.table import (
    Bar,
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

SWE_REX = "SWE-ReX"


def start_and_run() -> float:
    """Seconds from nothing to the first command's result."""
    from rock_gym import Sandbox

    start = time.perf_counter()
    sandbox = Sandbox.start(backend="bubblewrap")
    sandbox.execute(["true"])
    took = time.perf_counter() - start
    sandbox.stop()
    return took


@row(
    "fresh sandbox to first command",
    what="from `Sandbox.start` to the result of `true`; the others to the end of `true`",
    isolation="an embedded sandbox, a container without a network, bwrap with the same flags",
    peers=[DOCKER_RUN],
    floor="bare `bwrap`, same flags",
    count=200,
    bars=[faster(15), of_floor(1.4, 1.1)],
    unit="ms",
)
def fresh_sandbox(count: int) -> Samples:
    from benchmarks.floors import bare_bwrap

    with ExitStack() as stack:
        # Turns of ten: after half a second of docker's, the first finds its caches cold.
        return compare(
            count,
            Side(repeat(start_and_run), 10),
            Side(repeat(lambda: timed(bare_bwrap())), 10),
            *docker_beside(stack, DOCKER_RUN, lambda docker: timed(docker.run_true)),
        )


def in_session(command: str, kind: str, count: int, *, apart: bool = False) -> Samples:
    """A command in a session, over a raw pipe to bash, and in a session of SWE-ReX.

    The scheduler may put a shell on the CPU of whoever writes to it or not, which is worth more
    than all that is measured here. So both shells are told where to be.
    """
    from benchmarks.floors import RawBash, below
    from rock_gym import Sandbox

    with (
        ExitStack() as stack,
        Sandbox.start(backend="bubblewrap") as sandbox,
        RawBash() as raw,
    ):
        before = below(os.getpid())
        session = sandbox.create_session()
        shells = {raw.process.pid, *(below(os.getpid()) - before)}
        beside = Peers(stack)
        swe_rex = beside.start(SWE_REX, "swe_rex", venv="swe-rex")
        if apart:
            here, there = sorted(os.sched_getaffinity(0))[:2]
            os.sched_setaffinity(0, {here})
            for pid in shells:
                os.sched_setaffinity(pid, {there})
        peers = {SWE_REX: Side(partial(swe_rex.sample, kind))} if swe_rex else {}

        def both(turns: int) -> Samples:
            return take_turns(
                lambda: timed(lambda: session.run(command)),
                lambda: timed(lambda: raw.run(command)),
                turns,
            )

        found = both(count)
        # A tenth of a second each. Ours beside it, so that one turn of both is seen to be alike.
        few = max(1, min(60, count // 20))
        again = compare(
            few,
            Side(repeat(lambda: timed(lambda: session.run(command)))),
            Side(repeat(lambda: timed(lambda: raw.run(command)))),
            peers,
            beside.missing,
        )
        found.peers, found.missing = again.peers, again.missing
        middle = statistics.median(again.ours) * 1e6
        found.note = f"after each sleep of SWE-ReX ours takes {middle:.0f} us"
        return found


_COMMANDS: tuple[tuple[str, str, str, int, list[Bar]], ...] = (
    ("builtin", "true", "builtin", 5000, [faster(1500), of_floor(3, 1.5)]),
    ("`/bin/true`", "/bin/true", "external", 1000, [faster(80), of_floor(1.3, 1.1)]),
)
for _cpus in ("one", "two"):
    for _name, _command, _kind, _count, _bars in _COMMANDS:
        row(
            f"session command, {_name}",
            what=f"`session.run('{_command}')`, with its output and exit code",
            peers=[SWE_REX],
            floor="raw pipe to bash",
            count=_count,
            bars=_bars,
            unit="us",
            isolation="ours in an embedded sandbox; pipe and SWE-ReX in none",
            cpus=_cpus,
        )(partial(in_session, _command, _kind, apart=_cpus == "two"))


@row(
    "`execute`, embedded",
    what="`sandbox.execute(['/bin/true'])` after the first, with its true exit code",
    isolation="ours in an embedded sandbox; SWE-ReX runs it on the host, as does the floor",
    peers=[SWE_REX],
    floor="fork and exec on the host",
    count=1000,
    bars=[at_most(2.0), of_floor(aim=1.2)],
    unit="ms",
)
def execute(count: int) -> Samples:
    from rock_gym import Sandbox

    def fork_and_exec() -> None:
        pid = os.posix_spawn("/bin/true", ["/bin/true"], {})
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    with ExitStack() as stack, Sandbox.start(backend="bubblewrap") as sandbox:
        beside = Peers(stack)
        swe_rex = beside.start(SWE_REX, "swe_rex", venv="swe-rex")

        def ours() -> float:
            start = time.perf_counter()
            done = sandbox.execute(["/bin/true"])
            took = time.perf_counter() - start
            assert done.exit_code == 0
            return took

        return compare(
            count,
            Side(repeat(ours), 10),
            Side(repeat(lambda: timed(fork_and_exec)), 10),
            {SWE_REX: Side(partial(swe_rex.sample, "execute"), 10)} if swe_rex else {},
            beside.missing,
        )


@row(
    "memory of an idle sandbox",
    what="proportional memory of all that runs for 64 idle sandboxes, launcher included, per each",
    isolation="an embedded sandbox, a container with its shim, bwrap with the same flags",
    peers=[CONTAINER],
    floor="bare `bwrap` that waits",
    count=3,
    bars=[at_most(3, 1)],
    unit="MB",
)
def idle_memory(count: int) -> Samples:
    from benchmarks.floors import below, proportional_mb, waiting_bwrap
    from rock_gym import Sandbox

    number = 64 if count > 1 else 4
    # Of before the first, which brings the launcher along.
    before = below(os.getpid())

    def ours() -> float:
        with ExitStack() as stack:
            for _ in range(number):
                stack.enter_context(Sandbox.start(backend="bubblewrap")).execute(["true"])
            mine = below(os.getpid()) - before
            return sum(proportional_mb(pid) for pid in mine) / number

    def floor() -> float:
        with ExitStack() as stack:
            others = below(os.getpid())
            for _ in range(number):
                stack.enter_context(waiting_bwrap())
            return sum(proportional_mb(pid) for pid in below(os.getpid()) - others) / number

    with ExitStack() as stack:
        docker = docker_beside(stack, CONTAINER, DockerCli.memory_mb)
        return compare(count, Side(repeat(ours)), Side(repeat(floor)), *docker)
