"""What the library costs, beside what the same thing costs without it, measured in the same run.

    python benchmarks/run.py                     every row, as one Markdown table
    python benchmarks/run.py -k session          the rows whose names hold that
    python benchmarks/run.py --scale 0.1         a tenth of the samples

Each row runs in a process of its own, so that none inherits another's heap, children or CPU. Ours
and the floor take turns within a row: whatever disturbs the machine disturbs both. Where a row's
processes are is said in its CPU column; a wake-up across CPUs costs more than most of what is
measured here.

To add a row, write a function that returns ``Samples`` and decorate it with ``@row``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

FLOORS = Path(__file__).with_name("floors.py")
GAME = "game:GuessTheNumber-v0-hard"
ACTION = "\\boxed{1}"


@dataclass
class Samples:
    """What a row measured: seconds, or the unit that the row names."""

    ours: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)


Cpus = Literal["one", "two", "any"]


@dataclass(frozen=True)
class Row:
    """A row of the table and the bar that it is held to."""

    name: str
    floor: str
    count: int
    bar: float
    against: Literal["ratio", "above", "value"]
    unit: Literal["us", "ms", "s", "MB"]
    measure: Callable[[int], Samples]
    cpus: Cpus


ROWS: list[Row] = []
SCALES = {"us": 1e6, "ms": 1e3, "s": 1.0, "MB": 1.0}


def row(
    name: str,
    *,
    floor: str,
    count: int,
    bar: float,
    against: Literal["ratio", "above", "value"],
    unit: Literal["us", "ms", "s", "MB"],
    cpus: Cpus = "any",
) -> Callable[[Callable[[int], Samples]], Callable[[int], Samples]]:
    """Add a function to the table.

    Args:
        name: What is measured.
        floor: What it is compared with.
        count: How many samples of each.
        bar: What ours may be at most, by the median: ``ratio`` times the floor, ``above`` the
            floor by so much, or so much by ``value``; the latter two in ``unit``.
        against: See ``bar``.
        unit: How the numbers are shown.
        cpus: Where the row's processes are: all on one CPU, on two with every answer from the
            other one, or wherever the scheduler likes.
    """

    def add(measure: Callable[[int], Samples]) -> Callable[[int], Samples]:
        ROWS.append(Row(name, floor, count, bar, against, unit, measure, cpus))
        return measure

    return add


def take_turns(ours: Callable[[], float], floor: Callable[[], float], count: int) -> Samples:
    """Sample both alternately, each going first half of the time; the first few do not count."""
    samples = Samples()
    warm_up = min(20, count)
    for number in range(-warm_up, count):
        pair = [(ours, samples.ours), (floor, samples.floor)]
        for measure, kept in pair if number % 2 else reversed(pair):
            value = measure()
            if number >= 0:
                kept.append(value)
    return samples


def timed(action: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


# Sandboxes


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


# GEM


@contextmanager
def gem_env() -> Iterator[Any]:
    import gymnasium as gym

    import rock_gym

    gym.logger.min_level = gym.logger.ERROR
    env = rock_gym.make(GAME, backend="bubblewrap")
    try:
        yield env.unwrapped
    finally:
        env.close()


def gem_step(count: int) -> Samples:
    """Steps of the same game, inside and in process; both time themselves, in small batches."""
    from benchmarks.floors import GemInProcess

    batch = min(50, count)
    samples = Samples()
    with gem_env() as env, GemInProcess(GAME, ACTION) as raw:

        def ours() -> list[float]:
            taken: list[float] = []
            env.reset(seed=1)
            while len(taken) < batch:
                start = time.perf_counter()
                _, _, terminated, truncated, _ = env.step(ACTION)
                taken.append(time.perf_counter() - start)
                if terminated or truncated:
                    env.reset(seed=1)
            return taken

        ours(), raw.steps(batch)
        for _ in range(max(1, count // batch)):
            samples.ours += ours()
            samples.floor += raw.steps(batch)
    return samples


@row(
    "GEM step through the sandbox",
    floor="gem in process",
    count=5000,
    bar=40,
    against="above",
    unit="us",
    cpus="one",
)
def gem_step_pinned(count: int) -> Samples:
    return gem_step(count)


@row(
    "GEM step through the sandbox",
    floor="gem in process",
    count=5000,
    bar=100,
    against="above",
    unit="us",
)
def gem_step_free(count: int) -> Samples:
    return gem_step(count)


def _fill_bytecode_cache() -> None:
    with gem_env() as env:
        env.reset(seed=1)


@row(
    "first reset: sandbox, guest with gem, env process",
    floor="`import gem` in a fresh interpreter",
    count=5,
    bar=1.2,
    against="value",
    unit="s",
)
def guest_up(count: int) -> Samples:
    _fill_bytecode_cache()
    ours = [sys.executable, str(FLOORS), "first-reset", GAME]
    floor = [sys.executable, "-c", "import gem"]

    def tell(command: list[str]) -> float:
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return take_turns(
        lambda: tell(ours),
        lambda: timed(lambda: subprocess.run(floor, check=True, capture_output=True)),
        count,
    )


def many_envs(number: int) -> tuple[float, float]:
    """Seconds until that many env processes are ready, and proportional memory of each in MB.

    The guest runs before the clock does, and its memory and the sandbox's are shared out among
    them all.
    """
    import rock_gym
    from benchmarks.floors import proportional_mb

    envs = [rock_gym.make(GAME, backend="bubblewrap").unwrapped for _ in range(number)]
    try:
        envs[0].reset(seed=0)
        with ThreadPoolExecutor(16) as threads:
            start = time.perf_counter()
            list(threads.map(lambda env: env.reset(seed=1), envs[1:]))
            took = time.perf_counter() - start
        return took, proportional_mb() / number
    finally:
        for env in envs:
            env.close()


@row(
    "64 env processes ready, guest up",
    floor="64 times `fork` of a small Python",
    count=3,
    bar=0.4,
    against="value",
    unit="s",
)
def many_ready(count: int) -> Samples:
    from benchmarks.floors import fork_many

    return take_turns(lambda: many_envs(64)[0], lambda: fork_many(63), count)


@row(
    "proportional memory of each of 64 env processes",
    floor="a process that has imported gem",
    count=2,
    bar=8,
    against="value",
    unit="MB",
)
def many_memory(count: int) -> Samples:
    from benchmarks.floors import imported_gem_mb

    return take_turns(lambda: many_envs(64)[1], imported_gem_mb, count)


# Start-up


@row(
    "`import rock_gym`, gymnasium imported",
    floor="`import gymnasium`",
    count=20,
    bar=50,
    against="value",
    unit="ms",
)
def import_time(count: int) -> Samples:
    code = (
        "import json, time; a = time.perf_counter(); import gymnasium; b = time.perf_counter(); "
        "import rock_gym; print(json.dumps([time.perf_counter() - b, b - a]))"
    )
    samples = Samples()
    for _ in range(count + 1):
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        ours, floor = json.loads(done.stdout)
        samples.ours.append(ours)
        samples.floor.append(floor)
    # The first one may have had to compile.
    return Samples(samples.ours[1:], samples.floor[1:])


sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import docker_rows  # noqa: E402

docker_rows.add_rows(row, Samples, take_turns)


# The table


def quantile(values: list[float], share: float) -> float:
    """The value that this share of the samples does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def verdict(entry: Row, ours: float, floor: float) -> str:
    """What the bar is held against, the bar, and whether it is met."""
    scaled = SCALES[entry.unit]
    value, unit = {
        "ratio": (ours / floor, " x"),
        "above": ((ours - floor) * scaled, f" {entry.unit} more"),
        "value": (ours * scaled, f" {entry.unit}"),
    }[entry.against]
    mark = "met" if value <= entry.bar else "**missed**"
    return f"{value:.3g}{unit}, at most {entry.bar:g}: {mark}"


def line(entry: Row, samples: Samples) -> str:
    """A row in Markdown."""
    scale = SCALES[entry.unit]

    def show(values: list[float]) -> str:
        middle, low, high, late = (
            scale * value
            for value in (
                statistics.median(values),
                quantile(values, 0.1),
                quantile(values, 0.9),
                quantile(values, 0.99),
            )
        )
        return f"{middle:.3g} | {low:.3g} - {high:.3g} | {late:.3g}"

    ours, floor = statistics.median(samples.ours), statistics.median(samples.floor)
    name = f"{entry.name}, {entry.unit}"
    return (
        f"| {name} | {entry.cpus} | {show(samples.ours)} | {entry.floor} | {show(samples.floor)} "
        f"| {ours / floor:.2f} | {verdict(entry, ours, floor)} |"
    )


HEADINGS = ("", "CPU", "ours", "10-90 %", "p99", "floor", "", "10-90 %", "p99", "ratio", "bar")


def run_apart(number: int, scale: float, cpu: int) -> Samples:
    """Run a row in a process of its own."""
    command = [sys.executable, __file__, "--row", str(number), "--scale", str(scale)]
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*command, "--cpu", str(cpu)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    return Samples(**json.loads(done.stdout))


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-k", default="", metavar="TEXT", help="only rows whose names hold TEXT")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual samples")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="to pin to")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.row is not None:
        entry = ROWS[options.row]
        if entry.cpus == "one":
            os.sched_setaffinity(0, {options.cpu})
        print(json.dumps(asdict(entry.measure(max(1, round(entry.count * options.scale))))))
        return
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for number, entry in enumerate(ROWS):
        if options.k in entry.name:
            print(line(entry, run_apart(number, options.scale, options.cpu)), flush=True)


if __name__ == "__main__":
    main()
