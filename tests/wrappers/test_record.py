"""One environment, recorded, done again and played back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.wrappers import TransformReward

import rock_gym
from rock_gym.errors import CassetteError, RockGymError, StepTimeout
from rock_gym.wrappers import Record, Replay, rerun
from tests.wrappers.games import FAULT, GAME, MISTAKE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tape.jsonl"


def play(env: Any) -> list[Any]:
    """Two episodes and a half, of which the first alone is seeded."""
    seen = [env.reset(seed=5), env.step(1), env.step(2), env.step(3)]
    seen += [env.reset(), env.step(4), env.reset(), env.step(5), env.step(6)]
    return seen


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def edit(path: Path, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a line of a cassette, counted from 1."""
    lines = lines_of(path)
    change(lines[number - 1])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def recorded(path: Path, actor: Callable[[Any], Any] = play, **kwargs: Any) -> Any:
    with Record(gym.make(GAME, **kwargs), path) as env:
        return actor(env)


def test_a_recording_changes_nothing(path: Path) -> None:
    seen = recorded(path)
    with gym.make(GAME) as env:
        assert data_equivalence(seen, play(env))


def test_what_is_in_a_cassette(path: Path) -> None:
    recorded(path, length=2)
    header, *lines = lines_of(path)
    assert header["env"] == {"id": GAME, "kwargs": {"drawn": True, "length": 2}}
    assert header["versions"]["rock_gym"] == rock_gym.__version__
    assert {"gem", "gymnasium", "numpy", "python"} < set(header["versions"])
    assert [line["call"] for line in lines[:3]] == ["reset", "step", "step"]
    assert lines[0]["seed"] == lines[0]["rng"] == 5
    assert lines[4]["seed"] is None
    assert [lines[1][key] for key in ("action", "reward", "terminated")] == [1, 1, False]
    assert all(line["took_s"] >= 0 for line in lines)
    times = [line["at_s"] for line in lines]
    assert times == sorted(times)


def test_it_is_played_back(path: Path) -> None:
    """With the spaces, and without the environment."""
    seen = recorded(path)
    replay = Replay(path)
    assert data_equivalence(play(replay), seen)
    assert replay.action_space == gym.spaces.Discrete(1000)
    with pytest.raises(CassetteError, match="is over"):
        replay.reset()


def test_playing_back_is_strict(path: Path) -> None:
    recorded(path)
    with pytest.raises(CassetteError, match=r"line 2 .*seed 5, not the seed 6"):
        Replay(path).reset(seed=6)
    replay = Replay(path)
    with pytest.raises(CassetteError, match="recorded a reset, not a step"):
        replay.step(1)
    replay.reset()
    with pytest.raises(CassetteError, match=r"line 3 .*action 1, not the action 2.*strict=False"):
        replay.step(2)


def test_playing_back_by_episodes(path: Path) -> None:
    """Whatever is done, the next reset is the next episode."""
    seen = recorded(path)
    replay = Replay(path, strict=False)
    assert replay.reset(seed=6) == seen[0]
    assert replay.step(77)[0] == seen[1][0]
    assert replay.reset() == seen[4]
    replay.step(0)
    with pytest.raises(CassetteError, match="recorded a reset, not a step"):
        replay.step(0)


def test_done_again(path: Path) -> None:
    """Also from a first reset without a seed."""
    recorded(path, lambda env: [env.reset(), env.step(1), env.reset(), env.step(2)])
    outcome = rerun(path)
    assert (outcome.episodes, outcome.steps, outcome.unchecked) == (2, 2, 0)
    assert outcome.difference is None


@pytest.mark.parametrize(
    ("line", "key", "value", "place"),
    [
        (2, "obs", -1, (1, 0)),
        (3, "reward", 0.5, (1, 1)),
        (5, "terminated", False, (1, 3)),
        (7, "info", {}, (2, 1)),
        (9, "truncated", True, (3, 1)),
    ],
)
def test_the_first_difference_is_named(
    path: Path, line: int, key: str, value: Any, place: tuple[int, int]
) -> None:
    recorded(path)
    edit(path, line, lambda entry: entry.update({key: value}))
    edit(path, 10, lambda entry: entry.update(reward=99))
    found = rerun(path).difference
    assert found is not None
    assert (found.line, found.what, found.recorded) == (line, key, value)
    assert (found.episode, found.step) == place


def test_another_environment(path: Path) -> None:
    """Arguments in the place of those recorded, and one that is given."""
    recorded(path)
    found = rerun(path, length=2).difference
    assert found is not None
    assert (found.step, found.what) == (2, "terminated")
    assert rerun(path, make=lambda number: gym.make(GAME)).difference is None


class TestFaults:
    def play(self, env: Any) -> None:
        env.reset(seed=5)
        env.step(1)
        with pytest.raises(RockGymError) as caught:
            env.step(FAULT)
        assert isinstance(caught.value, StepTimeout)
        assert caught.value.message == "the step took longer than 1 s"
        env.reset()
        env.step(2)

    def test_they_are_raised_again(self, path: Path) -> None:
        recorded(path, self.play)
        assert lines_of(path)[3]["fault"]["kind"] == "step_timeout"
        self.play(Replay(path))

    def test_they_are_not_sought_again(self, path: Path) -> None:
        """What was no fault of the game need not be one today; the rest is checked."""
        recorded(path, self.play)
        outcome = rerun(path)
        assert (outcome.steps, outcome.unchecked, outcome.difference) == (2, 1, None)
        edit(path, 6, lambda entry: entry.update(reward=99))
        assert rerun(path).difference is not None

    def test_a_new_one_is_a_difference(self, path: Path) -> None:
        recorded(path)
        edit(path, 3, lambda entry: entry.update(action=FAULT))
        found = rerun(path).difference
        assert found is not None
        assert (found.line, found.what, found.recorded) == (3, "fault", None)
        assert found.found.startswith("StepTimeout: ")

    def test_mistakes_are_recorded_and_raised(self, path: Path) -> None:
        """Of an environment's own kinds, of which a file cannot make one."""

        def play(env: Any, kind: type[Exception]) -> None:
            env.reset(seed=5)
            with pytest.raises(kind, match="as told"):
                env.step(MISTAKE)

        recorded(path, lambda env: play(env, ZeroDivisionError))
        play(Replay(path), RockGymError)

    def test_misuse_is_not_recorded(self, path: Path) -> None:
        def play(env: Any) -> None:
            with pytest.raises(gym.error.ResetNeeded):
                env.step(1)

        recorded(path, play)
        assert len(lines_of(path)) == 1


class TestNotMadeAgain:
    def test_wrappers_inside(self, path: Path) -> None:
        with Record(TransformReward(gym.make(GAME), lambda reward: reward), path) as env:
            env.reset(seed=1)
        with pytest.raises(CassetteError, match="around TransformReward"):
            rerun(path)

    def test_no_id(self, path: Path) -> None:
        with Record(gym.make(GAME).unwrapped, path) as env:
            env.unwrapped.spec = None
            env.reset(seed=1)
        edit(path, 1, lambda header: header.update(env={"id": None, "is": "<it>"}))
        with pytest.raises(CassetteError, match=r"how to make <it> again.*make="):
            rerun(path)

    @pytest.mark.parametrize("name", ["os:x-v0", "unknown/Env-v0"])
    def test_an_id_that_names_a_module_or_nothing(self, path: Path, name: str) -> None:
        recorded(path)
        edit(path, 1, lambda header: header["env"].update(id=name))
        with pytest.raises(CassetteError, match="is registered"):
            rerun(path)


def test_arguments_that_no_file_holds_are_named(path: Path) -> None:
    with gym.make("gem-game/Sokoban-easy-v0", python_path=[path.parent], memory="1g") as plain:
        Record(plain, path).close()
    assert lines_of(path)[0]["env"]["kwargs"]["memory"] == "1g"
    other = path.with_name("other")
    with gym.make(GAME, space=gym.spaces.Discrete(3)) as plain:
        Record(plain, other).close()
    assert lines_of(other)[0]["env"]["left_out"] == ["space"]
