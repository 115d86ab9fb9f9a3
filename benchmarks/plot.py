"""The table as a picture: on one logarithmic scale, a line for each row."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.table import Result


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw how long ours, the peers and the floors take. Rows of memory are left to the table."""
    import matplotlib

    # No screen, no fonts but its own, and the same file from the same figures.
    matplotlib.use("agg")
    matplotlib.rcParams.update({"svg.hashsalt": "rock-gym", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    shown = [each for each in results if each.samples.ours and each.row.unit != "MB"][::-1]
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.3 * len(shown)), layout="constrained")
    for height, each in enumerate(shown):
        samples = each.samples
        ours = statistics.median(samples.ours)
        floor = statistics.median(samples.floor) if samples.floor else ours
        peers = [statistics.median(values) for values in samples.peers.values()]
        every = [ours, floor, *peers]
        axes.plot([min(every), max(every)], [height, height], color="0.85", zorder=1)
        axes.scatter([floor], [height], marker="|", s=90, color="0.4", zorder=2)
        axes.scatter(peers, [height] * len(peers), color="tab:orange", s=28, zorder=3)
        axes.scatter([ours], [height], color="tab:blue", s=40, zorder=4)
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [f"{each.row.name} ({each.row.cpus})" for each in shown])
    axes.set_ylim(-0.8, len(shown) - 0.2)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    ticks = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100]
    low, high = axes.get_xlim()
    axes.set_xticks(
        [tick for tick in ticks if low <= tick <= high],
        [
            name
            for tick, name in zip(
                ticks,
                ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"],
                strict=True,
            )
            if low <= tick <= high
        ],
    )
    for name, marker, colour in (
        ("ours", "o", "tab:blue"),
        ("peers", "o", "tab:orange"),
        ("floor", "|", "0.4"),
    ):
        axes.scatter([], [], marker=marker, color=colour, label=name)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
