"""The same seed and actions give what GEM gives in a process of its own, for every id that works.

The slow ones are sudoku, futoshiki, puzzle24 and knight_swap, whose resets search; half of the time
goes there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rock_gym.errors import EnvError
from rock_gym.gem import catalog
from rock_gym.gem.worker import EnvConfig, lease_worker
from tests.gem.conftest import make_pool
from tests.gem.play import play

SEEDS = [0, 42]

# What these seeds take is far below a second; of others it may be many.
BOUNDED = {
    "game:Sokoban-v0-hard": [2],
    "game:Sokoban-v0-random": [2],
    # Its question 121, which seed 3 draws, never comes.
    "rg:number_sequence": [0, 1, 42],
}

ROWS: dict[str, list[dict[str, Any]]] = {
    "math": [{"problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(30)],
    "qa": [
        {"problem": f"Who is {i}?", "question": f"Who is {i}?", "answer": [f"number {i}", str(i)]}
        for i in range(30)
    ],
    "code": [{"problem": "Echo", "tests": {"inputs": ["a", "b"], "outputs": ["a", "b"]}}] * 5,
}
ROWS["logic"] = ROWS["qa"]

MODULES = {"pandas": ("pandas",), "words": ("english_words",), "data set": ("datasets",)}


def lacks(record: catalog.Record) -> list[str]:
    """Modules that an environment needs and that are not here."""
    modules = MODULES.get(record.needs or "", ())
    if record.family == "math":
        modules = (*modules, "pylatexenc")
    return [name for name in modules if importlib.util.find_spec(name) is None]


def job(record: catalog.Record) -> tuple[str, list[int], dict[str, Any]]:
    make: dict[str, Any] = {}
    if record.needs == "data set":
        make["dataset"] = ROWS[record.family]
    return record.gem_id, BOUNDED.get(record.gem_id, SEEDS), make


# Its questions are pictures, which rows of JSON do not hold.
PICTURES = "math:Geometry3K"
PLAYED = [r for r in catalog.RECORDS if r.needs != "broken" and r.gem_id != PICTURES]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What GEM says by itself."""
    jobs = tmp_path_factory.mktemp("jobs") / "jobs.json"
    jobs.write_text(json.dumps([job(record) for record in PLAYED if not lacks(record)]))
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("play.py")), str(jobs)],
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def pool(kind: str) -> Iterator[Any]:
    if kind == "local":
        pytest.skip("a sandbox's worth of resets, and no sandbox")
    with make_pool(kind) as made:
        yield made


@pytest.mark.parametrize("record", PLAYED, ids=lambda record: record.gem_id)
def test_the_transcript_is_gems_own(
    record: catalog.Record, reference: dict[str, Any], pool: Any
) -> None:
    missing = lacks(record)
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    gem_id, seeds, make = job(record)
    worker = lease_worker(EnvConfig(gem_id, dataset=make.get("dataset")), pool, 64)

    def step(action: str) -> tuple[Any, ...]:
        try:
            return worker.step(action)
        except EnvError as error:
            raise _same_name(error) from error

    try:
        seen = play(gem_id, seeds, worker.reset, step)
    finally:
        worker.close()
    assert isinstance(reference[gem_id], list), reference[gem_id]
    assert json.loads(json.dumps(seen)) == reference[gem_id]


def _same_name(error: EnvError) -> Exception:
    """An exception of the class that GEM raised, going by the message."""
    return type(error.message.partition(":")[0], (Exception,), {})()
