"""The same seed and actions give what GEM gives in a process of its own, for every id that works.

The slow ones are Sokoban-hard and -random, whose constructors draw rooms until one can be solved.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rock_gym.errors import EnvError, ResetTimeout
from rock_gym.gem import catalog
from rock_gym.gem.worker import EnvConfig, lease_worker
from tests.conftest import BACKENDS
from tests.gem.conftest import backend_or_skip
from tests.gem.play import PATIENCE_S, TRIES, play

SEEDS = [0, 42]

# What these seeds take is far below a second; of others it may be many.
BOUNDED = {
    "game:Sokoban-v0-hard": [5],
    "game:Sokoban-v0-random": [1, 2],
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


class Reference:
    """What GEM says by itself, in a process that plays while we do."""

    def __init__(self, jobs: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("play.py")), str(jobs)]
        environ = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        environ["PYTHONPATH"] = str(Path(__file__).parents[2])
        # GEM runs code by "python", which Debian alone does not have.
        environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.found: dict[str, Any] = {}

    def of(self, gem_id: str) -> Any:
        assert self.process.stdout is not None
        while gem_id not in self.found:
            line = self.process.stdout.readline()
            assert line, "it ended early"
            name, transcript = json.loads(line)
            self.found[name] = transcript
        return self.found[gem_id]


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Reference]:
    asked = {
        item.callspec.params["record"].gem_id
        for item in request.session.items
        if item.path == request.path
    }  # type: ignore[attr-defined]
    jobs = tmp_path_factory.mktemp("jobs") / "jobs.json"
    jobs.write_text(json.dumps([job(r) for r in PLAYED if r.gem_id in asked and not lacks(r)]))
    made = Reference(jobs)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


@pytest.fixture(scope="module", params=BACKENDS)
def kind(request: pytest.FixtureRequest) -> str:
    return backend_or_skip(request.param)


@pytest.mark.parametrize("record", PLAYED, ids=lambda record: record.gem_id)
def test_the_transcript_is_gems_own(
    record: catalog.Record, reference: Reference, shared_pool: Any
) -> None:
    missing = lacks(record)
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    gem_id, seeds, make = job(record)
    worker = lease_worker(EnvConfig(gem_id, dataset=make.get("dataset")), shared_pool, 64)

    def step(action: str) -> tuple[Any, ...]:
        try:
            return worker.step(action)
        except EnvError as error:
            raise _same_name(error) from error

    def reset(seed: int) -> tuple[str, Any]:
        for _ in range(TRIES):
            with contextlib.suppress(ResetTimeout):
                return worker.reset(seed, PATIENCE_S)
        raise AssertionError("it never came")

    try:
        seen = play(gem_id, seeds, reset, step)
    finally:
        worker.close()
    expected = reference.of(gem_id)
    assert isinstance(expected, list), expected
    assert json.loads(json.dumps(seen)) == expected


def _same_name(error: EnvError) -> Exception:
    """An exception of the class that GEM raised, going by the message."""
    return type(error.message.partition(":")[0], (Exception,), {})()
