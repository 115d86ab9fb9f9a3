"""Environments in the shapes that trainers want: the same episodes, and faults that stay faults."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rock_gym
from rock_gym import errors
from rock_gym.adapters import Episode, first_observations
from rock_gym.envs import ResetNeeded
from rock_gym.errors import RockGymError, SpecError, StepTimeout
from tests.adapters import stubs

# Adapters know nothing of backends, so one is enough.
pytestmark = pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True, scope="session")

GUESS, SEED = "game:GuessTheNumber-v0-easy", 3
MOVES = ["\\boxed{1}", "\\boxed{2}", "\\boxed{3}", "\\boxed{4}"]

# One move never ends, and one is answered otherwise each time.
HARD = """
import time
import gem

class Hard(gem.Env):
    def reset(self, seed=None):
        super().reset(seed)
        return "go", {}

    def step(self, action):
        if action == "hang":
            time.sleep(600)
        return str(time.time_ns()) if action == "when" else "on", 0.25, False, False, {}

gem.register("my:Hard-v0", Hard)
"""


@pytest.fixture(scope="module", autouse=True)
def trainers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        stubs.install(patch)
        yield


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hard")
    (folder / "hard_env.py").write_text(HARD)
    for path in (folder, *list(folder.parents)[:2]):
        path.chmod(0o755)
    return {
        "imports": ["hard_env"],
        "python_path": [str(folder)],
        "step_timeout": 0.5,
        "envs_per_sandbox": 64,  # as it runs no action
    }


@pytest.fixture(scope="module")
def truth(backend: str) -> list[tuple[str, float]]:
    """What the episode is without any adapter: observations, and the reward before each."""
    env = rock_gym.make(GUESS)
    seen = [(env.reset(seed=SEED)[0], 0.0)]
    for move in MOVES:
        observation, reward, terminated, truncated, _ = env.step(move)
        seen.append((observation, float(reward)))
        if terminated or truncated:
            break
    env.close()
    return seen


# Each plays an episode by an adapter, and returns what was observed and the return.
Play = Callable[..., tuple[list[str], float]]


def by_trl(env_id: str, seed: int, moves: list[str], **options: Any) -> tuple[list[str], float]:
    from rock_gym.adapters.trl import environment_factory

    environment = environment_factory(env_id, **options)()
    seen = [environment.reset(seed=seed, prompt="a column of the data set")]
    for move in moves:
        try:
            seen.append(stubs.tools_of(environment)["act"](action=move))
        except RockGymError as error:
            seen.append(str(error))  # which is what the model is told
    total = environment.get_reward()
    environment._episode.close()
    return [text.removesuffix("\nThe episode is over.") for text in seen], total


def by_verl(env_id: str, seed: int, moves: list[str], **options: Any) -> tuple[list[str], float]:
    from rock_gym.adapters.verl import GemInteraction

    async def play() -> tuple[list[str], float]:
        interaction = GemInteraction({"env_id": env_id, "options": options})
        instance = await interaction.start_interaction("request", seed=seed, name="rock-gym")
        seen, total = [], 0.0
        for move in moves:
            messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": move}]
            done, text, reward, _ = await interaction.generate_response(instance, messages)
            seen.append(text)
            total += reward
        assert done == (interaction._episodes == {}), "what is over holds no sandbox"
        await interaction.finalize_interaction(instance)
        return seen, total

    ((_, first),) = first_observations(env_id, [seed], **options)
    seen, total = asyncio.run(play())
    return [first, *seen], total


def by_skyrl(env_id: str, seed: int, moves: list[str], **options: Any) -> tuple[list[str], float]:
    from rock_gym.adapters.skyrl import GemTextEnv

    extras = {"env_id": env_id, "seed": seed, "options": options, "max_turns": 4}
    env = GemTextEnv(env_config={"env_id": "other"}, extras=extras)
    assert env.max_turns == 4
    try:
        conversation, _ = env.init([{"role": "system", "content": "play"}])
        assert [each["role"] for each in conversation] == ["system", "user"]
        seen, total = [conversation[-1]["content"]], 0.0
        for move in moves:
            out = env.step(move)
            seen += [each["content"] for each in out["observations"]]
            total += out["reward"]
        return seen, total
    finally:
        env.close()


def by_openrlhf(
    env_id: str, seed: int, moves: list[str], **options: Any
) -> tuple[list[str], float]:
    from rock_gym.adapters.openrlhf import executor

    marks = executor(env_id, template=lambda text, done: f"<<{text}>>", **options)
    left = iter(moves)
    out = asyncio.run(marks().execute("prompt", str(seed), lambda text: next(left)))
    assert out["scores"] == out["reward"]
    return [each.partition(">>")[0] for each in out["text"].split("<<")[1:]], out["reward"]


def by_gem(env_id: str, seed: int, moves: list[str], **options: Any) -> tuple[list[str], float]:
    told = gem_face("play", env_id=env_id, seed=seed, moves=moves, options=options)
    if "error" in told:
        raise getattr(errors, told["error"])("as it was told")
    assert told["max_turns"] == (4 if env_id == GUESS else None)
    return told["seen"], told["total"]


def gem_face(name: str, **given: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.adapters.gem_face", name, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


ADAPTERS: dict[str, Play] = {
    "trl": by_trl,
    "verl": by_verl,
    "skyrl": by_skyrl,
    "openrlhf": by_openrlhf,
    "gem": by_gem,
}
each_adapter = pytest.mark.parametrize("play", ADAPTERS.values(), ids=list(ADAPTERS))


@each_adapter
def test_the_episode_is_the_same(backend: str, play: Play, truth: list[tuple[str, float]]) -> None:
    seen, total = play(GUESS, SEED, MOVES[: len(truth) - 1])
    # SkyRL wants nothing to read behind the end.
    assert seen == [text for text, _ in truth][: len(seen)]
    assert len(seen) >= len(truth) - 1
    assert total == pytest.approx(sum(reward for _, reward in truth))


@each_adapter
def test_a_fault_is_no_reward(backend: str, play: Play, hard: dict[str, Any]) -> None:
    """It is raised to who asks for the reward, although there were rewards before."""
    with pytest.raises(StepTimeout):
        play("my:Hard-v0", SEED, ["x", "hang"], **hard)


class TestEpisode:
    @pytest.fixture
    def episode(self, backend: str) -> Iterator[Episode]:
        episode = Episode(GUESS)
        yield episode
        episode.close()

    def test_it_outlives_its_sandbox(
        self, episode: Episode, truth: list[tuple[str, float]]
    ) -> None:
        """Nobody who plays it notices."""
        first, _ = episode.reset(SEED)
        seen = [(first, 0.0)]
        for number, move in enumerate(MOVES[: len(truth) - 1]):
            if number == 2:
                episode.env.unwrapped.sandbox.stop()  # type: ignore[attr-defined]
            turn = episode.step(move)
            seen.append((turn.observation, turn.reward))
        assert seen == truth
        assert episode.done
        assert episode.total == pytest.approx(sum(reward for _, reward in truth))

    def test_what_does_not_repeat_is_a_fault(self, backend: str, hard: dict[str, Any]) -> None:
        """Rather than another episode behind the same beginning."""
        episode = Episode("my:Hard-v0", **hard)
        episode.reset(SEED)
        episode.step("when")
        episode.env.unwrapped.sandbox.stop()  # type: ignore[attr-defined]
        with pytest.raises(RockGymError):
            episode.step("x")
        with pytest.raises(ResetNeeded):
            episode.step("x")
        assert episode.reset(SEED)[0] == "go"
        assert episode.step("x").reward == 0.25
        episode.close()

    def test_what_makes_no_sense_is_not_tried_again(self, backend: str) -> None:
        with pytest.raises(SpecError, match="no-such"):
            Episode("game:no-such-game")

    def test_an_episode_that_is_over(self, episode: Episode) -> None:
        with pytest.raises(ResetNeeded):
            episode.step("x")


def test_the_model_s_tool_is_described(backend: str) -> None:
    """TRL makes its schema of types and of the docstring, and has the one tool."""
    from rock_gym.adapters.trl import environment_factory

    environment = environment_factory(GUESS)()
    assert list(stubs.tools_of(environment)) == ["act"]
    assert "Args:\n            action: " in (environment.act.__doc__ or "")
    assert str(inspect.signature(environment.act)) == "(action: 'str') -> 'str'"
    environment.reset(seed=SEED)
    for _ in range(6):
        last = environment.act("\\boxed{1}")
    assert last == "The episode is over."
    environment._episode.close()


def test_what_verl_forgets_is_closed(backend: str) -> None:
    from rock_gym.adapters.verl import GemInteraction

    async def play() -> list[str]:
        interaction = GemInteraction({"env_id": GUESS, "forgotten_s": 0.0})
        for name in "abc":
            await interaction.start_interaction(name, seed=SEED)
        left = list(interaction._episodes)
        await interaction.finalize_interaction("c")
        return left

    assert asyncio.run(play()) == ["c"]


def test_a_label_of_openrlhf_that_is_no_seed(backend: str) -> None:
    """Rather than another episode for each sample of a prompt."""
    from rock_gym.adapters.openrlhf import executor

    with pytest.raises(ValueError, match="the answer"):
        asyncio.run(executor(GUESS)().execute("prompt", "the answer", lambda text: "x"))


def test_gem_s_face_is_spawned_where_it_is(backend: str) -> None:
    told = gem_face("spawn", env_id=GUESS, seed=SEED, moves=MOVES, options={})
    assert told["same"]
    assert "boxed" in told["move"]


def test_adapters_are_imported_by_those_who_want_them(backend: str) -> None:
    """The package of them needs no trainer, and none is imported by the library."""
    trainers = sorted({"gem"} | {name.partition(".")[0] for name in stubs.MODULES})
    code = "import sys, rock_gym.adapters, rock_gym.adapters.trl\n"
    code += f"print([name for name in {trainers} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
