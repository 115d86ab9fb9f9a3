"""Episodes played by a policy: what ends them, faults included."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest

from rock_gym.episodes import Episode, play, play_many
from rock_gym.errors import EnvUnavailable, SpecError

# One backend is enough: what differs between them is tested beneath.
pytestmark = pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True, scope="session")

GAME = "gem-game/GuessTheNumber-easy-v0"


@pytest.fixture(params=[1, 3], ids=["alone", "many"])
def played(request: pytest.FixtureRequest, backend: str) -> Any:
    """Plays episodes, one after the other or three at a time; returns them in order."""

    def run(policy: Any, seeds: list[int], env_id: str = GAME) -> list[Episode]:
        if request.param == 1:
            with gym.make(env_id) as env:
                return list(play(env, policy, seeds))
        envs = gym.make_vec(env_id, num_envs=request.param, autoreset_mode="Disabled")
        try:
            return sorted(play_many(envs, policy, seeds), key=lambda each: each.episode)
        finally:
            envs.close()

    return run


def test_each_has_its_seed_and_its_end(played: Any) -> None:
    """More episodes than environments: who is done begins the next."""

    def policy(observation: str, info: Any, env: Any, turn: int) -> str | None:
        assert "fault" not in info
        assert "env_id" not in info
        return None if turn == 2 else "\\boxed{1}"

    done = played(policy, [11, 12, 13, 14, 15])
    assert [episode.seed for episode in done] == [11, 12, 13, 14, 15]
    for episode in done:
        assert (episode.steps, episode.end) in {
            (1, "terminated"),
            (2, "terminated"),
            (2, "given up"),
        }
        assert not episode.faulty
        assert episode.took_s > 0


def test_a_fault_ends_one_episode(played: Any) -> None:
    """The next begins in another sandbox."""

    def policy(observation: str, info: Any, env: Any, turn: int) -> str | None:
        if turn == 0 and not lost:
            lost.append(env.sandbox.id)
            env.sandbox.stop()
        return "\\boxed{99}"

    lost: list[str] = []
    done = played(policy, list(range(6)))
    faults = [episode for episode in done if episode.faulty]
    assert len(lost) == 1
    assert {episode.end for episode in faults} == {"sandbox_lost"}
    assert 1 <= len(faults) <= 3  # those in the same sandbox
    assert all(episode.end == "terminated" for episode in done if not episode.faulty)


def test_what_stops_all_is_raised(played: Any) -> None:
    with pytest.raises(EnvUnavailable):
        played(lambda *_: "x", [1, 2], "gem-rg/composite-v0")
    with pytest.raises(SpecError, match="must be"):
        played(lambda *_: 7, [1, 2])
