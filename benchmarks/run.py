"""What the library costs, beside what the same thing costs without it, measured in the same run.

    python benchmarks/run.py                     every row, as one Markdown table
    python benchmarks/run.py -k session          the rows whose names hold that
    python benchmarks/run.py --scale 0.1         a tenth of the samples

Each row runs in a process of its own, so that none inherits another's heap, children or CPU. Ours
and the floor take turns within a row: whatever disturbs the machine disturbs both. Where a row's
processes are is said in its CPU column; a wake-up across CPUs costs more than most of what is
measured here.

To add a row, write a function that returns ``Samples`` and decorate it with ``@row``, in one of
the modules that this one imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks import (
    docker_rows,
    file_rows,
    gem_rows,
    http_rows,
    image_rows,
    pool_rows,
    sandbox_rows,
    vector_rows,
)
from benchmarks.table import HEADINGS, ROWS, Row, Samples, line

MODULES = (
    sandbox_rows,
    file_rows,
    image_rows,
    gem_rows,
    pool_rows,
    vector_rows,
    docker_rows,
    http_rows,
)


def run_apart(entry: Row, scale: float, cpu: int) -> Samples:
    """Run a row in a process of its own."""
    command = [sys.executable, __file__, "--row", entry.key, "--scale", str(scale)]
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
    parser.add_argument("--row", metavar="KEY", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.row is not None:
        (entry,) = (entry for entry in ROWS if entry.key == options.row)
        if entry.cpus == "one":
            os.sched_setaffinity(0, {options.cpu})
        print(json.dumps(asdict(entry.measure(max(1, round(entry.count * options.scale))))))
        return
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for entry in ROWS:
        if options.k in entry.name:
            print(line(entry, run_apart(entry, options.scale, options.cpu)), flush=True)


if __name__ == "__main__":
    main()
