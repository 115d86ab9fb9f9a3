"""Results as a table in Markdown, as JSON, and as a picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.table import SCALES, Bar, Result, Unit, quantile

PROFILES = Path(__file__).with_name("profiles.md")
HEADINGS = (
    "row", "ours", "peer", "floor", "peer / ours", "ours / floor", "must reach", "aim", "CPU",
    "isolation", "what it measures",
)  # fmt: skip
_UNITS: tuple[Unit, ...] = ("us", "ms", "s")
INTRODUCTION = """\
# Results

Made by `make bench`; how a row is measured is in its module. Each row runs in a process of its own,
in which ours, the peers and the floor take turns: whatever disturbs the machine disturbs all of
them. **Only ratios within a row mean anything on another machine.** A figure is the median, with
the 99th percentile behind it, or the range where there are fewer than 100 samples. CPU says where a
row's processes are: all on *one*, on *two* with every answer from the other one, or on *any*.
"""


def line(result: Result) -> str:
    """A row in Markdown."""
    row, samples = result.row, result.samples
    what = "; ".join(filter(None, (row.what, samples.note)))
    if result.failed is not None:
        cells = [row.name, f"**failed**: {result.failed}", *[""] * 4]
    else:
        peers = [
            f"{name}: {figure(result, samples.peers[name])}"
            if name in samples.peers
            else f"{name}: not measured ({samples.missing.get(name, 'no samples')})"
            for name in row.peers
        ]
        ours, floor = statistics.median(samples.ours), samples.floor
        ratios = [
            _plain(statistics.median(samples.peers[name]) / ours) if name in samples.peers else "–"
            for name in row.peers
        ]
        cells = [
            row.name,
            f"**{figure(result, samples.ours)}**",
            "<br>".join(peers),
            f"{row.floor}: {figure(result, floor)}",
            "<br>".join(ratios),
            _plain(ours / statistics.median(floor)),
        ]
    bars = ["<br>".join(_bars(result, kind)) for kind in ("must", "aim")]
    cells += [*bars, row.cpus, row.isolation, what]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def figure(result: Result, values: Sequence[float]) -> str:
    """A median and how far samples are from it."""
    if not values:
        return "not measured"
    unit = result.row.unit
    if unit != "MB":
        # A peer may take a thousand times as long as what the row is about.
        unit = next(each for each in _UNITS if statistics.median(values) * SCALES[each] < 1000)
    scaled = [SCALES[unit] * value for value in values]
    middle = f"{_plain(statistics.median(scaled))} {unit}"
    if len(scaled) == 1:
        return middle
    if len(scaled) < 100:
        return f"{middle} ({_plain(min(scaled))}–{_plain(max(scaled))})"
    return f"{middle} (p99 {_plain(quantile(scaled, 0.99))})"


def _bars(result: Result, kind: str) -> list[str]:
    lines = []
    for bar in result.row.bars:
        limit = bar.must if kind == "must" else bar.aim
        if limit is None:
            continue
        value = result.value(bar)
        if value is None:
            lines.append(f"{wanted(result, bar, limit)}: not measured")
        else:
            mark = "met" if bar.met(value, limit) else "**missed**"
            lines.append(f"{wanted(result, bar, limit)}: {_plain(value)}, {mark}")
    return lines


def wanted(result: Result, bar: Bar, limit: float) -> str:
    """A limit in words."""
    unit, peer = result.row.unit, bar.peer or next(iter(result.row.peers), "")
    number = _plain(limit)
    return {
        "peer / ours": f"≥ {number} × {peer}",
        "floor / ours": f"≥ {_plain(limit * 100)} % of the floor's throughput",
        "ours / floor": f"≤ {number} × floor",
        "ours - floor": f"≤ {number} {unit} above the floor",
        "ours": f"≤ {number} {unit}",
        "1 / ours": f"≥ {number} /s",
    }[bar.against]


def _plain(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(results: Sequence[Result]) -> str:
    """All rows in Markdown."""
    head = f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}"
    return "\n".join([head, *map(line, results)])


def markdown(results: Sequence[Result], machine: Mapping[str, str], scale: float) -> str:
    """The page."""
    named = "; ".join(f"{name} {value}" for name, value in machine.items())
    parts = [INTRODUCTION]
    if scale != 1:
        parts.append(f"**Not the usual samples: {scale:g} times as many. Not to be quoted.**\n")
    parts.append(f"Measured on {_today()} on: {named}.\n")
    parts.append(_summary(results))
    parts.append(table(results))
    parts.append("\n![Ours, peers and floors on one scale](results.svg)\n")
    parts.append(where_time_goes(results))
    return "\n".join(parts)


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


def _summary(results: Sequence[Result]) -> str:
    def names(kept: Sequence[Result]) -> str:
        return ", ".join(f"{each.row.name} ({each.row.cpus})" for each in kept) or "none"

    failed = [each for each in results if each.failed is not None]
    must = [each for each in results if each.failed is None and each.misses("must")]
    aim = [each for each in results if each.failed is None and each.misses("aim")]
    return (
        f"Rows that miss what they must reach: {names(must)}.\n\n"
        f"Rows that miss their aim: {names(aim)}.\n\nRows that failed: {names(failed)}.\n"
    )


def where_time_goes(results: Sequence[Result]) -> str:
    """What ``profiles.md`` has on the rows that miss a bar.

    Its sections begin with ``### ``, the name of a row or the beginning of several rows' names.
    """
    missed = dict.fromkeys(
        each.row.name
        for each in results
        if each.failed is None and (each.misses("must") or each.misses("aim"))
    )
    sections = PROFILES.read_text().split("\n### ")[1:]
    shown = [
        section for section in sections if any(name.startswith(_title(section)) for name in missed)
    ]
    bare = [name for name in missed if not any(name.startswith(_title(each)) for each in sections)]
    parts = ["## Where the time goes\n", "Of rows that miss what they must reach, or their aim.\n"]
    parts += [f"### {section.strip()}\n" for section in shown]
    if bare:
        parts.append(f"Not profiled yet: {', '.join(bare)}.\n")
    return "\n".join(parts)


def _title(section: str) -> str:
    return section.partition("\n")[0].strip()


def as_json(results: Sequence[Result], machine: Mapping[str, str], scale: float) -> Any:
    """All figures, in seconds or megabytes."""
    return {
        "date": _today(),
        "machine": dict(machine),
        "scale": scale,
        "rows": [_row_as_json(each) for each in results],
    }


def _row_as_json(result: Result) -> dict[str, Any]:
    row, samples = result.row, result.samples
    bars = [
        {"against": bar.against, "value": result.value(bar), "must": bar.must, "aim": bar.aim}
        for bar in row.bars
    ]
    return {
        "row": row.name,
        "cpus": row.cpus,
        "what": row.what,
        "isolation": row.isolation,
        "unit": "MB" if row.unit == "MB" else "s",
        "ours": _spread(samples.ours),
        "peers": {name: _spread(values) for name, values in samples.peers.items()},
        "floor": {"name": row.floor, **_spread(samples.floor)},
        "bars": bars,
        "missing": samples.missing,
        "note": samples.note,
        "failed": result.failed,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"samples": 0}
    parts = {"p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99}
    found = {name: quantile(values, part) for name, part in parts.items()}
    found |= {"median": statistics.median(values), "mean": statistics.fmean(values)}
    return {"samples": len(values), **found}


def write(
    directory: Path, results: Sequence[Result], machine: Mapping[str, str], scale: float
) -> None:
    """Write ``RESULTS.md``, ``results.json`` and ``results.svg``."""
    from benchmarks import plot

    (directory / "RESULTS.md").write_text(markdown(results, machine, scale))
    told = as_json(results, machine, scale)
    (directory / "results.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    plot.draw(results, directory / "results.svg")
