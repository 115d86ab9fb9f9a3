"""Every row of the benchmark can be measured. How fast it is, no test says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.table import HEADINGS, ROWS, line

SCRIPT = Path(run.__file__)


@pytest.mark.parametrize("number", range(len(ROWS)), ids=lambda number: ROWS[number].name)
def test_each_row_runs(number: int, backend: str) -> None:
    samples = run.run_apart(number, scale=0.0001, cpu=0)
    assert samples.ours
    assert samples.floor
    text = line(ROWS[number], samples)
    assert text.count(" | ") == len(HEADINGS) - 1


def test_the_table_can_be_narrowed() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "-k", "import", "--scale", "0.05"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 3
