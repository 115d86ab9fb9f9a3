"""Every row of the benchmark can be measured. How fast it is, no test says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.table import HEADINGS, ROWS, Row, line
from tests.gem.conftest import backend_or_skip

SCRIPT = Path(run.__file__)

# The same functions as those of other numbers of environments, and of another game.
REPEATED = (
    "step of 64 GuessTheNumber, one process each",
    "step of 8 2048, one process each",
    "step of 64 2048, one process each",
    "step of 256 2048, one process each",
)
TESTED = [row for row in ROWS if row.name not in REPEATED]


def test_what_is_repeated_is_there() -> None:
    assert {row.name for row in ROWS} > set(REPEATED)


def test_no_two_rows_have_one_key() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", TESTED, ids=lambda row: row.key)
def test_each_row_runs(row: Row) -> None:
    backend_or_skip("docker" if row.name.startswith("docker") else "bubblewrap")
    samples = run.run_apart(row, scale=0.0001, cpu=0)
    assert samples.ours
    assert samples.floor
    text = line(row, samples)
    assert text.count(" | ") == len(HEADINGS) - 1


def test_the_table_can_be_narrowed() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "-k", "import", "--scale", "0.05"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 3
