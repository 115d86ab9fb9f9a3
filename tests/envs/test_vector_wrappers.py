"""The wrappers that people use, on texts: around one environment and around a vector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers

from rock_gym.envs import Unicode

GAME = "gem-game/Game2048-easy-v0"
MOVES = ["\\boxed{up}", "\\boxed{left}", "\\boxed{down}", "\\boxed{right}"]


@pytest.fixture
def env(backend: str) -> Iterator[gym.Env[Any, Any]]:
    env = gym.make(GAME, backend=backend, render_mode="rgb_array")
    yield env
    env.close()


def make_vector(backend: str, mode: AutoresetMode, **kwargs: Any) -> Any:
    return gym.make_vec(
        GAME, num_envs=2, backend=backend, autoreset_mode=mode, max_episode_steps=3, **kwargs
    )


class TestSingle:
    def test_statistics(self, env: gym.Env[Any, Any]) -> None:
        env = wrappers.RecordEpisodeStatistics(wrappers.TimeLimit(env, 3))
        env.reset(seed=1)
        steps = [env.step(move) for move in MOVES[:3]]
        assert [step[3] for step in steps] == [False, False, True]
        episode = steps[-1][4]["episode"]
        assert episode["l"] == 3
        assert episode["r"] == pytest.approx(sum(float(step[1]) for step in steps))

    def test_transformed(self, env: gym.Env[Any, Any]) -> None:
        env = wrappers.TransformObservation(env, str.upper, Unicode(1 << 20))
        env = wrappers.TransformReward(env, lambda reward: float(reward) + 1)
        text, _ = env.reset(seed=1)
        assert text == text.upper()
        text, reward, *_ = env.step(MOVES[0])
        assert text == text.upper()
        assert float(reward) >= 1

    def test_video(self, env: gym.Env[Any, Any], tmp_path: Path) -> None:
        env = wrappers.RecordVideo(
            env, str(tmp_path / "videos"), episode_trigger=lambda number: True
        )
        env.reset(seed=1)
        for move in MOVES:
            env.step(move)
        env.close()
        assert [path.suffix for path in tmp_path.joinpath("videos").iterdir()] == [".mp4"]


class TestVector:
    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_statistics(self, backend: str, mode: AutoresetMode) -> None:
        envs = vector_wrappers.RecordEpisodeStatistics(make_vector(backend, mode))
        envs.reset(seed=1)
        rewards = []
        for move in MOVES[:3]:
            _, reward, _, truncated, infos = envs.step([move, move])
            rewards.append(reward)
        assert truncated.all()
        assert infos["episode"]["l"].tolist() == [3, 3]
        assert infos["episode"]["r"] == pytest.approx(np.sum(rewards, axis=0))
        envs.close()

    def test_statistics_of_those_that_are_not_reset_go_on(self, backend: str) -> None:
        envs = vector_wrappers.RecordEpisodeStatistics(make_vector(backend, AutoresetMode.DISABLED))
        envs.reset(seed=1)
        envs.step(MOVES[:2])
        envs.reset(options={"reset_mask": np.array([True, False])})
        envs.step(MOVES[:2])
        *_, truncated, infos = envs.step(MOVES[2:])
        assert truncated.tolist() == [False, True]
        assert infos["episode"]["l"].tolist() == [0, 3]
        envs.close()

    def test_transformed(self, backend: str) -> None:
        envs = make_vector(backend, AutoresetMode.NEXT_STEP)
        envs = vector_wrappers.TransformObservation(
            envs, lambda texts: tuple(text.upper() for text in texts)
        )
        envs = vector_wrappers.TransformReward(envs, lambda rewards: rewards + 1)
        texts, _ = envs.reset(seed=1)
        assert all(text == text.upper() for text in texts)
        _, rewards, *_ = envs.step(MOVES[:2])
        assert (rewards >= 1).all()
        envs.close()

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_infos_as_a_list(self, backend: str, mode: AutoresetMode) -> None:
        envs = vector_wrappers.DictInfoToList(make_vector(backend, mode))
        _, infos = envs.reset(seed=1)
        assert [sorted(info) for info in infos] == [["suffix"]] * 2
        for move in MOVES[:3]:
            *_, infos = envs.step([move, move])
        assert all(("final_info" in info) is (mode is AutoresetMode.SAME_STEP) for info in infos)
        envs.close()

    def test_videos(self, backend: str, tmp_path: Path) -> None:
        envs = make_vector(backend, AutoresetMode.NEXT_STEP, render_mode="rgb_array")
        envs = vector_wrappers.RecordVideo(
            envs, str(tmp_path / "videos"), episode_trigger=lambda number: number == 0
        )
        envs.reset(seed=1)
        for move in MOVES:
            envs.step([move, move])
        envs.close()
        assert list(tmp_path.glob("videos/*.mp4"))
