"""Every id of GEM in real sandboxes: gymnasium's checker, and GEM's own transcripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gymnasium.utils.env_checker import check_env

import rock_gym
from rock_gym import SandboxPool
from rock_gym.errors import EnvUnavailable
from rock_gym.gem import catalog
from rock_gym.gem.places import with_guest
from rock_gym.spec import SandboxSpec
from tests.conftest import BACKENDS

HERE = Path(__file__).parent
SEED = 3
# With the usual one it takes a question that keeps it busy for half a minute.
SEEDS = {"rg:number_sequence": 5}
# Their rooms take up to minutes to generate. Smaller ones do not.
SMALLER = {
    "game:Sokoban-v0-hard": {"dim_room": [6, 6], "num_boxes": 2},
    "game:Sokoban-v0-random": {"num_boxes": 1, "max_turns": 20},
}

PLAYABLE = [r for r in catalog.RECORDS if r.needs in (None, "pandas", "words")]
BROKEN = [r for r in catalog.RECORDS if r.needs == "broken"]
# Geometry3K shows pictures, and an observation is a text.
ON_DATA = [r for r in catalog.RECORDS if r.needs == "data set" and r.gem_id != "math:Geometry3K"]
# One of each game, and of each sampler of reasoning_gym's actions.
ONE_OF_EACH = list({r.family if r.category == "game" else r.category: r for r in PLAYABLE}.values())
# GEM by itself would download a dictionary for these.
WORDS_OF_OURS = ("Wordle", "Hangman", "WordSearch")
COMPARED = [r for r in PLAYABLE if r.family not in WORDS_OF_OURS]
# What the checker looks at is the same code on every backend, so others show it once for each kind.
CHECKED = [
    pytest.param(backend, record, id=f"{backend}-{record.gem_id}")
    for backend in BACKENDS
    for record in (PLAYABLE if backend == BACKENDS[0] else ONE_OF_EACH)
]

ROWS = [
    {
        "problem": f"What is {n} + {n}?",
        "question": f"What is {n} + {n}?",
        "answer": str(2 * n),
        "tests": json.dumps({"inputs": ["1\n", "2\n"], "outputs": ["1\n", "2\n"]}),
    }
    for n in range(20)
]


def by_id(record: catalog.Record) -> str:
    return record.gem_id


@pytest.fixture(scope="module")
def pool(backend: str) -> Iterator[SandboxPool]:
    with SandboxPool.from_spec(with_guest(SandboxSpec(), backend=backend), backend=backend) as pool:
        yield pool


@pytest.fixture(scope="module")
def transcripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What GEM does when nobody is in between, by GEM id."""
    directory = tmp_path_factory.mktemp("transcripts")
    path = directory / "lines"
    seeds = {record.gem_id: SEEDS.get(record.gem_id, SEED) for record in COMPARED}
    subprocess.run(
        [sys.executable, str(HERE / "gem_transcripts.py"), str(path), json.dumps(seeds)],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "PYTHONHASHSEED": "0"},
        cwd=directory,
        check=True,
        capture_output=True,
    )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["gem_id"]: line for line in lines}


@pytest.mark.parametrize(("backend", "record"), CHECKED, indirect=["backend"])
def test_the_checker_has_no_complaint(record: catalog.Record, pool: SandboxPool) -> None:
    """Warnings are errors in this suite."""
    # The checker makes spare environments. That all may share a sandbox saves its start.
    kwargs = {"pool": pool, "envs_per_sandbox": 64, **SMALLER.get(record.gem_id, {})}
    with rock_gym.make(record.gem_id, render_mode="ansi", **kwargs) as env:
        check_env(env.unwrapped)


@pytest.mark.parametrize("record", COMPARED, ids=by_id)
def test_an_episode_is_gems_own(
    record: catalog.Record, pool: SandboxPool, transcripts: dict[str, Any]
) -> None:
    expected = transcripts[record.gem_id]
    with rock_gym.make(record.gem_id, pool=pool, observation="raw", gem_info=True) as env:
        observation, info = env.reset(seed=SEEDS.get(record.gem_id, SEED))
        info.pop("gem")
        assert [observation, info] == expected["reset"]
        for step in expected["steps"]:
            observation, reward, terminated, truncated, info = env.step(step["action"])
            flags = info.pop("gem")
            assert [observation, reward, info] == step["reply"]
            assert [flags["terminated"], flags["truncated"]] == step["flags"]
            assert terminated == step["flags"][0]
            assert not (terminated and truncated)


def need_what_grades(gem_id: str) -> None:
    record = catalog.find(gem_id)
    if record is not None and record.family == "math":
        pytest.importorskip("pylatexenc", reason="the extra data is not installed")


@pytest.mark.parametrize("record", ON_DATA, ids=by_id)
def test_environments_on_data_play_with_rows(record: catalog.Record, pool: SandboxPool) -> None:
    """In one sandbox, whose guest imports once what takes seconds to import."""
    need_what_grades(record.gem_id)
    with rock_gym.make(record.gem_id, pool=pool, dataset=ROWS, envs_per_sandbox=64) as env:
        observation, _ = env.reset(seed=SEED)
        assert "What is" in observation
        *_, terminated, truncated, _ = env.step(env.unwrapped.sample_random_action())
        assert (terminated, truncated) == (True, False)


@pytest.mark.parametrize("gem_id", ["math:GSM8K", "code:Taco8k", "qa:HotpotQA"])
def test_the_checker_is_content_with_data_too(gem_id: str, pool: SandboxPool) -> None:
    need_what_grades(gem_id)
    with rock_gym.make(gem_id, pool=pool, dataset=ROWS, envs_per_sandbox=64) as env:
        check_env(env.unwrapped)


@pytest.mark.parametrize("record", [*BROKEN, *ON_DATA], ids=by_id)
def test_what_cannot_be_made_says_why(record: catalog.Record, pool: SandboxPool) -> None:
    with rock_gym.make(record.gem_id, pool=pool, envs_per_sandbox=64) as env:
        with pytest.raises(EnvUnavailable) as caught:
            env.reset()
        if record in ON_DATA:
            assert "dataset=" in str(caught.value)
        # It stays as it was: neither stuck nor half made.
        with pytest.raises(EnvUnavailable):
            env.reset()
