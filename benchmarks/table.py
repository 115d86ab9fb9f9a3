"""What a row of the benchmark is: ours and a floor, measured in turns, and a bar for ours."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Samples:
    """What a row measured: seconds, or the unit that the row names."""

    ours: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)


Cpus = Literal["one", "two", "any"]
Unit = Literal["us", "ms", "s", "MB"]


@dataclass(frozen=True)
class Row:
    """A row of the table and the bar that it is held to."""

    name: str
    floor: str
    count: int
    bar: float
    against: Literal["ratio", "above", "value"]
    unit: Unit
    measure: Callable[[int], Samples]
    cpus: Cpus

    @property
    def key(self) -> str:
        """What no other row has. Not its number, which depends on who imports what first."""
        return f"{self.name}, CPU: {self.cpus}"


ROWS: list[Row] = []
SCALES = {"us": 1e6, "ms": 1e3, "s": 1.0, "MB": 1.0}


def row(
    name: str,
    *,
    floor: str,
    count: int,
    bar: float,
    against: Literal["ratio", "above", "value"],
    unit: Unit,
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
