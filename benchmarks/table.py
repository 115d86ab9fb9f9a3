"""What a row of the benchmark is: ours, peers and a floor, measured in turns, and bars for ours."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.peers.process import PeerFailed

Cpus = Literal["one", "two", "any"]
Unit = Literal["us", "ms", "s", "MB"]
SCALES: Mapping[Unit, float] = {"us": 1e6, "ms": 1e3, "s": 1.0, "MB": 1.0}
# No row samples longer, so that all of them together stay within minutes where a peer is slow.
SAMPLING_S = 12.0


@dataclass
class Samples:
    """What a row measured: seconds, or megabytes.

    Attributes:
        ours: Ours.
        floor: The same with as little as possible.
        peers: Each peer's, by its name.
        missing: Why a peer has none, by its name.
        note: What is to be said of this measurement alone.
    """

    ours: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    note: str = ""


Against = Literal["peer / ours", "floor / ours", "ours / floor", "ours - floor", "ours", "1 / ours"]
_AT_LEAST = ("peer / ours", "floor / ours", "1 / ours")


@dataclass(frozen=True)
class Bar:
    """What ours is held to, by medians.

    Attributes:
        against: What is compared. Of what is in ``_AT_LEAST`` more is better, of the others
            less.
        must: What has to be reached, if anything.
        aim: What is aimed at, if anything.
        peer: Which peer, where it is not the row's first.
    """

    against: Against
    must: float | None = None
    aim: float | None = None
    peer: str | None = None

    def met(self, value: float, limit: float) -> bool:
        """Whether a value reaches a limit."""
        return value >= limit if self.against in _AT_LEAST else value <= limit


def faster(must: float | None = None, aim: float | None = None, *, peer: str | None = None) -> Bar:
    """Hold ours to be so many times as fast as a peer."""
    return Bar("peer / ours", must, aim, peer)


def of_floor(must: float | None = None, aim: float | None = None) -> Bar:
    """Hold ours to at most so many times the floor."""
    return Bar("ours / floor", must, aim)


def share(must: float | None = None, aim: float | None = None) -> Bar:
    """Hold ours to at least such a share of the floor's throughput."""
    return Bar("floor / ours", must, aim)


def above(must: float | None = None, aim: float | None = None) -> Bar:
    """Hold ours to at most so much more than the floor, in the row's unit."""
    return Bar("ours - floor", must, aim)


def at_most(must: float | None = None, aim: float | None = None) -> Bar:
    """Hold ours to a value, in the row's unit."""
    return Bar("ours", must, aim)


def a_second(must: float | None = None, aim: float | None = None) -> Bar:
    """Hold ours to at least so many a second."""
    return Bar("1 / ours", must, aim)


EMBEDDED = "ours in an embedded sandbox, the others in none"


@dataclass(frozen=True)
class Row:
    """A row of the table and the bars that it is held to."""

    name: str
    module: str
    what: str
    isolation: str
    floor: str
    peers: tuple[str, ...]
    count: int
    bars: tuple[Bar, ...]
    unit: Unit
    measure: Callable[[int], Samples]
    cpus: Cpus

    @property
    def key(self) -> str:
        """What no other row has. Not its number, which depends on who imports what first."""
        return f"{self.name}, CPU: {self.cpus}"


ROWS: list[Row] = []


def row(
    name: str,
    *,
    what: str,
    floor: str,
    count: int,
    bars: Sequence[Bar],
    unit: Unit,
    peers: Sequence[str] = (),
    isolation: str = EMBEDDED,
    cpus: Cpus = "any",
) -> Callable[[Callable[[int], Samples]], Callable[[int], Samples]]:
    """Add a function to the table.

    Args:
        name: What it is called.
        what: What is measured: from where to where the clock runs, and what a sample is.
        floor: What the least is that this could cost.
        count: How many samples of ours, where that takes no longer than ``SAMPLING_S``.
        bars: What ours is held to.
        unit: How the numbers are shown.
        peers: What else does the same; the first is the one that bars speak of.
        isolation: What is between the measured and the machine, on each side.
        cpus: Where the row's processes are: all on one CPU, on two with every answer from the
            other one, or wherever the scheduler likes.
    """
    # Many are partials of one function, which do not know where they were made.
    module = sys._getframe(1).f_globals["__name__"]

    def add(measure: Callable[[int], Samples]) -> Callable[[int], Samples]:
        ROWS.append(
            Row(
                name=name,
                module=module,
                what=what,
                isolation=isolation,
                floor=floor,
                peers=tuple(peers),
                count=count,
                bars=tuple(bars),
                unit=unit,
                measure=measure,
                cpus=cpus,
            )
        )
        return measure

    return add


# How samples are taken

Sampler = Callable[[int], list[float]]


@dataclass(frozen=True)
class Side:
    """One of those that take turns.

    Attributes:
        sample: Returns so many samples.
        each: How many in a turn.
    """

    sample: Sampler
    each: int = 1


def repeat(measure: Callable[[], float]) -> Sampler:
    """Make a sampler of what returns one sample."""
    return lambda count: [measure() for _ in range(count)]


def compare(
    count: int,
    ours: Side,
    floor: Side,
    peers: Mapping[str, Side] | None = None,
    missing: Mapping[str, str] | None = None,
    warm_up: int = 1,
) -> Samples:
    """Sample all sides in turns until ours has so many, or the time is up.

    Each side begins a turn as often as the others; the first turns do not count. A peer that
    breaks is left out from then on, and the samples say why.
    """
    samples = Samples(missing=dict(missing or {}))
    sides = {"ours": (ours, samples.ours), "floor": (floor, samples.floor)}
    for name, side in (peers or {}).items():
        sides[f"peer {name}"] = side, samples.peers.setdefault(name, [])
    until = time.monotonic() + SAMPLING_S
    for turn in range(-warm_up, max(1, count // ours.each)):
        order = list(sides)
        first = turn % len(order)
        for name in order[first:] + order[:first]:
            side, kept = sides[name]
            try:
                values = side.sample(min(side.each, count))
            except PeerFailed as error:
                del sides[name]
                samples.missing[name.removeprefix("peer ")] = str(error)
                continue
            if turn >= 0:
                kept += values
        if time.monotonic() > until and samples.ours:
            break
    samples.peers = {name: values for name, values in samples.peers.items() if values}
    return samples


def take_turns(ours: Callable[[], float], floor: Callable[[], float], count: int) -> Samples:
    """Sample both alternately, each going first half of the time; the first few do not count."""
    return compare(count, Side(repeat(ours)), Side(repeat(floor)), warm_up=min(20, count))


def timed(action: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def quantile(values: Sequence[float], part: float) -> float:
    """The value that this part of the samples does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


# What became of it


@dataclass(frozen=True)
class Result:
    """A row and what it measured, or why it did not."""

    row: Row
    samples: Samples
    failed: str | None = None

    def value(self, bar: Bar) -> float | None:
        """What a bar is held against, in the row's unit; None where it was not measured."""
        name = bar.peer or (self.row.peers[0] if self.row.peers else "")
        floor, peer = self.samples.floor, self.samples.peers.get(name)
        beside = peer if bar.against == "peer / ours" else floor
        if not self.samples.ours or not beside:
            return None
        ours, other = statistics.median(self.samples.ours), statistics.median(beside)
        scale = SCALES[self.row.unit]
        return {
            "peer / ours": other / ours,
            "floor / ours": other / ours,
            "ours / floor": ours / other,
            "ours - floor": (ours - other) * scale,
            "ours": ours * scale,
            "1 / ours": 1 / ours,
        }[bar.against]

    def misses(self, kind: Literal["must", "aim"]) -> bool:
        """Whether a bar of this kind is not met. What was not measured is not met."""
        for bar in self.row.bars:
            limit = bar.must if kind == "must" else bar.aim
            value = self.value(bar)
            if limit is not None and (value is None or not bar.met(value, limit)):
                return True
        return False
