"""Recordings of real environments: GEM's, in sandboxes."""

from __future__ import annotations

from pathlib import Path

import pytest
from gymnasium.utils.env_checker import data_equivalence

from rock_gym.envs import SandboxVectorEnv
from rock_gym.wrappers import Record, Replay, rerun

# What differs between backends is tested beneath.
pytestmark = pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True, scope="session")

GAMES = ("game:GuessTheNumber-v0-easy", "game:Minesweeper-v0-easy", "rg:gcd")


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_games_of_several_kinds(backend: str, mode: str, tmp_path: Path) -> None:
    """In groups, without a seed, cut off by the vector, and with episodes prepared ahead."""
    path = tmp_path / "tape.jsonl"
    vector = SandboxVectorEnv(
        gem_ids=GAMES,
        group_size=2,
        autoreset_mode=mode,
        max_episode_steps=3,
        speculative_reset=True,
        gem_info=True,
    )
    with Record(vector, path) as envs:
        seen, sent = [envs.reset()], []
        for _ in range(8):
            sent.append(envs.action_space.sample())
            seen.append(envs.step(sent[-1]))
    replay = Replay(path)
    assert data_equivalence([replay.reset(), *map(replay.step, sent)], seen)
    outcome = rerun(path)
    assert outcome.difference is None
    assert outcome.unchecked == 0
    assert outcome.episodes > 12
    other = rerun(path, observation="raw").difference
    assert other is not None
    assert (other.what, other.step) == ("obs", 0)
