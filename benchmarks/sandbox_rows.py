"""What a sandbox and a command in it cost."""

from __future__ import annotations

import os
import time

from benchmarks.table import Samples, row, take_turns, timed


@row(
    "fresh sandbox to first command",
    floor="the same by `bwrap` alone, to the end of `true`",
    count=200,
    bar=1.5,
    against="ratio",
    unit="ms",
)
def fresh_sandbox(count: int) -> Samples:
    from benchmarks.floors import bare_bwrap
    from rock_gym import Sandbox

    def ours() -> float:
        start = time.perf_counter()
        sandbox = Sandbox.start(backend="bubblewrap")
        sandbox.execute(["true"])
        took = time.perf_counter() - start
        sandbox.stop()
        return took

    return take_turns(ours, lambda: timed(bare_bwrap()), count)


def in_session(command: str, count: int, *, apart: bool = False) -> Samples:
    """A command in a session, and over a raw pipe to bash.

    The scheduler may put a shell on the CPU of whoever writes to it or not, which is worth more
    than all that is measured here. So both shells are told where to be.
    """
    from benchmarks.floors import RawBash, below
    from rock_gym import Sandbox

    with Sandbox.start(backend="bubblewrap") as sandbox, RawBash() as raw:
        before = below(os.getpid())
        session = sandbox.create_session()
        if apart:
            here, there = sorted(os.sched_getaffinity(0))[:2]
            os.sched_setaffinity(0, {here})
            for pid in (raw.process.pid, *(below(os.getpid()) - before)):
                os.sched_setaffinity(pid, {there})
        return take_turns(
            lambda: timed(lambda: session.run(command)),
            lambda: timed(lambda: raw.run(command)),
            count,
        )


@row(
    "builtin in a session",
    floor="the same over a raw pipe to bash",
    count=5000,
    bar=3,
    against="ratio",
    unit="us",
    cpus="one",
)
def builtin_pinned(count: int) -> Samples:
    return in_session("true", count)


@row(
    "builtin in a session",
    floor="the same over a raw pipe to bash",
    count=5000,
    bar=3,
    against="ratio",
    unit="us",
    cpus="two",
)
def builtin_apart(count: int) -> Samples:
    return in_session("true", count, apart=True)


@row(
    "`/bin/true` in a session",
    floor="the same over a raw pipe to bash",
    count=1000,
    bar=1.3,
    against="ratio",
    unit="us",
    cpus="one",
)
def external_pinned(count: int) -> Samples:
    return in_session("/bin/true", count)


@row(
    "`/bin/true` in a session",
    floor="the same over a raw pipe to bash",
    count=1000,
    bar=1.3,
    against="ratio",
    unit="us",
    cpus="two",
)
def external_apart(count: int) -> Samples:
    return in_session("/bin/true", count, apart=True)
