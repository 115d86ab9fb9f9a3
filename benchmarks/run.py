"""What the library costs, beside what the same thing costs without it, measured in the same run.

    python benchmarks/run.py                     every row, as one Markdown table
    python benchmarks/run.py -k session          the rows whose names hold that
    python benchmarks/run.py --scale 0.1         a tenth of the samples
    python benchmarks/run.py --write benchmarks  RESULTS.md, results.json and results.svg as well
    python benchmarks/run.py --no-install        without peers that are not installed yet

Each row runs in a process of its own, so that none inherits another's heap, children or CPU. Ours,
the peers and the floor take turns within a row: whatever disturbs the machine disturbs all. Where a
row's processes are is said in its CPU column; a wake-up across CPUs costs more than most of what is
measured here.

Peers from PyPI are installed once below ``.bench/``, each into a virtual environment of its own.
One that cannot be installed is told in the rows that it belongs to, as is a row that fails; the
others are measured all the same.

To add a row, write a function that returns ``Samples`` and decorate it with ``@row``, in one of
the modules that this one imports.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
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
    machine,
    pool_rows,
    report,
    rock_rows,
    sandbox_rows,
    vector_rows,
)
from benchmarks.peers import venvs
from benchmarks.table import ROWS, Result, Row, Samples

MODULES = (
    sandbox_rows,
    pool_rows,
    gem_rows,
    vector_rows,
    http_rows,
    rock_rows,
    docker_rows,
    file_rows,
    image_rows,
)
ROW_S = 180.0


class RowFailed(Exception):
    """Raised when a row cannot be measured; says why in one line."""


def ordered() -> list[Row]:
    """The rows, in the order of their modules and not of who imports whom."""
    names = [module.__name__ for module in MODULES]
    return sorted(ROWS, key=lambda entry: names.index(entry.module))


def run_apart(entry: Row, scale: float, cpu: int) -> Samples:
    """Run a row in a process of its own.

    Raises:
        RowFailed: If it fails, or takes longer than ``ROW_S``.
    """
    command = [sys.executable, __file__, "--row", entry.key, "--scale", str(scale)]
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [*command, "--cpu", str(cpu)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        # What a row has started ends with it, also where it does not come to an end itself.
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=ROW_S)
    except subprocess.TimeoutExpired:
        raise RowFailed(f"not measured within {ROW_S:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        sys.stderr.write(errors)
        last = errors.strip().splitlines()[-1:] or [f"ended with {process.returncode}"]
        raise RowFailed(last[0][:300])
    return Samples(**json.loads(out))


def result_of(entry: Row, scale: float, cpu: int) -> Result:
    """Measure a row, or tell why it cannot be."""
    try:
        return Result(entry, run_apart(entry, scale, cpu))
    except RowFailed as error:
        return Result(entry, Samples(), str(error))


def install_peers() -> None:
    """Install what is not there yet, and go on without what cannot be."""
    for name in venvs.REQUIREMENTS:
        reason = venvs.install(name)
        if reason is not None:
            print(f"without {name}: {reason}", file=sys.stderr, flush=True)


def _measure(key: str, scale: float, cpu: int) -> None:
    (entry,) = (entry for entry in ROWS if entry.key == key)
    if entry.cpus == "one":
        os.sched_setaffinity(0, {cpu})
    print(json.dumps(asdict(entry.measure(max(1, round(entry.count * scale))))))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-k", default="", metavar="TEXT", help="only rows whose names hold TEXT")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual samples")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="to pin to")
    parser.add_argument("--write", type=Path, metavar="DIRECTORY", help="write the report there")
    parser.add_argument("--no-install", action="store_true", help="install no peers")
    parser.add_argument("--row", metavar="KEY", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = _options(arguments)
    if options.row is not None:
        _measure(options.row, options.scale, options.cpu)
        return
    # Told to end, it ends the row that runs, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not options.no_install:
        install_peers()
    described = machine.describe()
    print(report.table([]), flush=True)
    results = []
    for entry in ordered():
        if options.k in entry.name:
            results.append(result_of(entry, options.scale, options.cpu))
            print(report.line(results[-1]), flush=True)
    if options.write is not None:
        report.write(options.write, results, described, options.scale)
    if any(each.failed is not None for each in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
