"""Every example runs, is short, and says something."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ALL = sorted(
    path
    for path in (Path(__file__).parents[1] / "examples").iterdir()
    if path.suffix in (".py", ".sh")
)
# Those that speak HTTP are run against a server, by tests of the server.
EXAMPLES = [path for path in ALL if not path.stem.startswith("http_")]


# They choose no backend, so what is run for one is run for all.
@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(path: Path, backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 80


def test_there_are_some() -> None:
    assert {path.stem for path in ALL} >= {
        "coding_sandbox",
        "demo",
        "grpo_groups",
        "http_curl",
        "http_rl_rock",
        "policy_gradient",
        "record_and_replay",
        "single_env",
        "stragglers",
        "vector_rollout",
    }


@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_policy_gradient_learns(seed: int, backend: str) -> None:
    """Half of a run is enough to see it, and the same seed gives the same curve."""
    example = load("policy_gradient")
    curve = example.train(seed, rounds=80)
    first, last = sum(curve[:5]) / 5, sum(curve[-10:]) / 10
    assert first < 0.5, "it begins at random"
    assert last > first + 0.25
    assert example.train(seed, rounds=5) == curve[:5]


def load(name: str) -> Any:
    (path,) = (path for path in EXAMPLES if path.stem == name)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
