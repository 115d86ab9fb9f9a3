"""Faults that are made up: they look like real ones, come as the seed says, and harm nothing."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from rock_gym.envs import EpisodeOver, ResetNeeded, SandboxVectorEnv
from rock_gym.errors import RockGymError, SpecError
from rock_gym.wrappers import Chaos, VectorChaos
from rock_gym.wrappers.chaos import RESET_FAULTS, STEP_FAULTS


def story(seed: int, **options: Any) -> tuple[list[str], dict[str, int]]:
    """What a trainer lives through that tries again after each fault."""
    env = Chaos(CartPoleEnv(), seed=seed, step_rate=0.2, reset_rate=0.3, **options)
    told, ready = [], False
    for _ in range(300):
        try:
            if not ready:
                env.reset(seed=1)
                ready = True
                continue
            *_, terminated, truncated, _ = env.step(0)
            ready = not (terminated or truncated)
            told.append("step")
        except RockGymError as error:
            told.append(type(error).__name__)
            ready = False
    return told, env.faults


def test_the_seed_decides() -> None:
    told, faults = story(7)
    assert story(7) == (told, faults)
    assert story(8) != (told, faults)
    assert set(told) == {"step"} | {
        kind.__name__ for kind in (*STEP_FAULTS.values(), *RESET_FAULTS.values())
    }
    assert sum(faults.values()) == len([word for word in told if word != "step"])


def test_only_the_kinds_that_are_asked_for() -> None:
    assert set(story(7, kinds=("step_timeout",))[0]) == {"step", "StepTimeout"}


def test_no_fault_is_made_up_after_a_real_one() -> None:
    """What a real one has ended is over until the next reset."""

    class Failing(CartPoleEnv):
        def step(self, action: Any) -> Any:
            raise ZeroDivisionError

    def lived_through(seed: int) -> list[type[Exception]]:
        env = Chaos(Failing(), seed=seed, step_rate=0.5, reset_rate=0.0)
        env.reset()
        seen: list[type[Exception]] = []
        for _ in range(6):
            with pytest.raises((ZeroDivisionError, RockGymError)) as caught:
                env.step(0)
            seen.append(caught.type)
        return seen

    stories = [lived_through(seed) for seed in range(10)]
    real = [story for story in stories if story[0] is ZeroDivisionError]
    assert real
    assert all(set(story) == {ZeroDivisionError} for story in real)


def test_after_a_fault_only_a_reset_helps() -> None:
    env = Chaos(CartPoleEnv(), step_rate=1.0, reset_rate=0.0)
    env.reset()
    with pytest.raises(RockGymError, match="made up"):
        env.step(0)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset()


class Short(gym.Env[Any, Any]):
    """Each episode is one turn long."""

    over = True

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self.over = False
        return "begun", {}

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.over:
            raise ResetNeeded("it is over")
        self.over = True
        return "over", 1.0, True, False, {}


def test_a_step_out_of_turn_is_no_fault() -> None:
    """It is misuse, and told as that, whatever would have been drawn."""
    env = Chaos(Short(), seed=1, step_rate=0.5, reset_rate=0.0)
    with pytest.raises(ResetNeeded):
        env.step(0)
    told = []
    for _ in range(50):
        env.reset()
        try:
            env.step(0)
        except RockGymError:
            told.append("fault")
            continue
        for _ in range(5):
            with pytest.raises(ResetNeeded):
                env.step(0)
        told.append("turn")
    assert {"fault", "turn"} == set(told)
    assert sum(env.faults.values()) == told.count("fault")


def test_without_faults_nothing_changes() -> None:
    plain, wrapped = CartPoleEnv(), Chaos(CartPoleEnv(), step_rate=0.0, reset_rate=0.0)
    assert np.array_equal(plain.reset(seed=3)[0], wrapped.reset(seed=3)[0])
    for _ in range(5):
        one, other = plain.step(1), wrapped.step(1)
        assert np.array_equal(one[0], other[0])
        assert one[1:] == other[1:]


@pytest.mark.parametrize(
    "options", [{"step_rate": 1.5}, {"reset_rate": -0.1}, {"kinds": ("no_such",)}]
)
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        Chaos(CartPoleEnv(), **options)


def vector(mode: str, **options: Any) -> VectorChaos:
    return VectorChaos(SandboxVectorEnv(env_fns=[CartPoleEnv] * 4, autoreset_mode=mode), **options)


def test_rows_that_are_hit_begin_anew_in_the_next_step() -> None:
    envs = vector("NextStep", seed=5, step_rate=0.3)
    envs.reset(seed=1)
    hits = 0
    was_hit = np.zeros(4, dtype=np.bool_)
    for _ in range(40):
        obs, rewards, terminated, truncated, infos = envs.step(np.zeros(4, dtype=np.int64))
        hit = infos.get("_fault", np.zeros(4, dtype=np.bool_))
        assert not (hit & was_hit).any(), "a step that begins an episode is not hit"
        # A new episode of this game begins near the middle, without a reward.
        assert (np.abs(obs[was_hit]) <= 0.05).all()
        assert (rewards[was_hit] == 0).all()
        assert not (terminated | truncated)[was_hit].any()
        assert truncated[hit].all()
        assert not terminated[hit].any()
        assert (rewards[hit] == 0).all()
        assert {infos["fault"][row] for row in np.flatnonzero(hit)} <= STEP_FAULTS.keys()
        hits += int(hit.sum())
        was_hit = hit
    assert hits == sum(envs.faults.values()) > 10
    envs.close()


def test_rows_that_are_hit_wait_for_a_reset_where_none_comes_by_itself() -> None:
    envs = vector("Disabled", step_rate=1.0)
    envs.reset(seed=1)
    *_, truncated, _ = envs.step(np.zeros(4, dtype=np.int64))
    assert truncated.all()
    envs.reset(options={"reset_mask": np.array([True, True, True, False])})
    with pytest.raises(EpisodeOver, match=r"\[3\]"):
        envs.step(np.zeros(4, dtype=np.int64))
    envs.reset(options={"reset_mask": np.array([False, False, False, True])})
    envs.step(np.zeros(4, dtype=np.int64))
    envs.close()


def test_vectors_that_it_cannot_wrap() -> None:
    with pytest.raises(SpecError, match="NextStep"):
        vector("SameStep")
    other = gym.vector.SyncVectorEnv([CartPoleEnv])
    with pytest.raises(SpecError, match="SandboxVectorEnv"):
        VectorChaos(other)  # type: ignore[arg-type]
    other.close()
