"""The vector environment over real sandboxes: what each environment sees is what it sees alone."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import rock_gym
from rock_gym import SandboxPool
from rock_gym.envs import EnvClosed, ResetNeeded, SandboxVectorEnv
from rock_gym.envs.vector_speculation import Pace
from rock_gym.errors import EnvUnavailable, SpecError
from tests.contract.support import eventually
from tests.envs.vector_play import Events, Play, Policy, mines, play_alone, tiles
from tests.gem.local import pid_of

GUESS = "game:GuessTheNumber-v0-hard"
GAMES: dict[str, tuple[str, Policy]] = {
    "2048": ("game:Game2048-v0-easy", tiles),
    "Minesweeper": ("game:Minesweeper-v0-easy", mines),
}
MODES = list(AutoresetMode)
TURNS, NUMBER, SEED = 25, 4, 11


@pytest.fixture
def vector(pool: SandboxPool) -> Iterator[Callable[..., SandboxVectorEnv]]:
    made = []

    def make(gem_id: str | None = GUESS, num_envs: int | None = 2, **kwargs: Any) -> Any:
        made.append(SandboxVectorEnv(gem_id=gem_id, num_envs=num_envs, pool=pool, **kwargs))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


@pytest.fixture
def obedient(
    vector: Callable[..., SandboxVectorEnv], modules: Path
) -> Callable[..., SandboxVectorEnv]:
    def make(num_envs: int, **kwargs: Any) -> SandboxVectorEnv:
        given = {"imports": ["obedient"], "python_path": [modules], "envs_per_sandbox": 64}
        return vector("my:Obedient-v0", num_envs, **{**given, **kwargs})

    return make


@pytest.fixture(scope="module", params=GAMES)
def game(request: pytest.FixtureRequest, pool: SandboxPool) -> tuple[str, Policy, list[Events]]:
    """A game that draws random numbers in its steps, and how each episode goes alone."""
    gem_id, policy = GAMES[request.param]
    alone = [play_alone(gem_id, i, policy, SEED + i, TURNS, pool) for i in range(NUMBER)]
    return gem_id, policy, alone


class TestTrajectories:
    @pytest.mark.parametrize(
        "how",
        [{}, {"speculative_reset": True}, {"envs_per_process": 3}],
        ids=["", "ahead", "packed"],
    )
    @pytest.mark.parametrize("by_parts", [False, True], ids=["lockstep", "by parts"])
    @pytest.mark.parametrize("mode", MODES)
    def test_each_is_as_if_it_were_alone(
        self,
        game: Any,
        vector: Callable[..., SandboxVectorEnv],
        mode: AutoresetMode,
        by_parts: bool,
        how: dict[str, Any],
    ) -> None:
        gem_id, policy, alone = game
        envs = vector(gem_id, NUMBER, autoreset_mode=mode, **how)
        play = Play(envs, policy, TURNS)
        play.begin(SEED)
        if by_parts:
            play.by_parts(2)
        else:
            play.lockstep()
        assert all(play.same(number, alone[number]) for number in range(NUMBER))
        assert any(event[0] == "reset" for event in play.events[0][1:]) or "2048" in gem_id

    @pytest.mark.parametrize("how", [{}, {"envs_per_process": 3}], ids=["", "packed"])
    def test_also_for_who_listens_to_its_descriptor(
        self, game: Any, vector: Callable[..., SandboxVectorEnv], how: dict[str, Any]
    ) -> None:
        gem_id, policy, alone = game
        play = Play(vector(gem_id, NUMBER, autoreset_mode="SameStep", **how), policy, TURNS)
        play.begin(SEED)
        play.by_descriptor()
        assert all(play.same(number, alone[number]) for number in range(NUMBER))

    @pytest.mark.parametrize("mode", MODES)
    def test_also_while_another_is_killed(
        self, game: Any, vector: Callable[..., SandboxVectorEnv], mode: AutoresetMode
    ) -> None:
        gem_id, policy, alone = game
        envs = vector(gem_id, NUMBER, autoreset_mode=mode)
        play = Play(envs, policy, TURNS)
        play.begin(SEED)
        killed = 1
        everybody = range(NUMBER)
        faults = []
        while min(play.taken[i] for i in everybody if i != killed) < TURNS:
            if play.taken[0] in (3, 9):
                player: Any = envs._players[killed]
                os.kill(pid_of(player._worker), signal.SIGKILL)
            batch = envs.step(play.actions(everybody))
            faults.append(batch[-1].get("fault", np.full(NUMBER, None)).tolist())
            play.note(batch, everybody)
            play.reset_finished()
        assert all(play.same(i, alone[i]) for i in everybody if i != killed)
        assert {fault[killed] for fault in faults} == {None, "env_error"}
        assert {fault[i] for fault in faults for i in everybody if i != killed} == {None}


class TestFace:
    @pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
    def test_gymnasium_makes_it(self, backend: str, mode: str) -> None:
        envs = gym.make_vec(
            "gem-game/GuessTheNumber-hard-v0", num_envs=2, autoreset_mode=mode, backend=backend
        )
        assert isinstance(envs.unwrapped, SandboxVectorEnv)
        assert envs.spec is not None
        again = gym.make_vec(pickle.loads(pickle.dumps(envs.spec)))
        assert again.spec == envs.spec
        assert gym.envs.registration.EnvSpec.from_json(envs.spec.to_json()) == envs.spec
        assert again.metadata["autoreset_mode"].value == mode
        obs, _ = envs.reset(seed=1)
        assert obs in envs.observation_space
        assert obs == again.reset(seed=1)[0]
        for _ in range(3):
            actions = envs.action_space.sample()
            assert actions in envs.action_space
            envs.reset()
            obs, rewards, *_ = envs.step(actions)
            assert (rewards.dtype, rewards.shape) == (np.float64, (2,))
        envs.close()
        again.close()

    def test_constructing_starts_nothing(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector(num_envs=3)
        assert envs.get_attr("sandbox") == (None,) * 3
        with pytest.raises(ResetNeeded):
            envs.step(["a", "b", "c"])

    def test_it_may_be_of_several_games(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector(None, None, gem_ids=[GUESS, "game:Game2048-v0-easy"])
        obs, _ = envs.reset(seed=1)
        assert "guess" in obs[0].lower()
        assert "2048" in obs[1]
        envs.action_space.seed(1)
        assert "boxed{" in envs.action_space.sample()[0]
        envs.step(envs.call("sample_random_action"))

    def test_groups_begin_alike(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector("game:Game2048-v0-easy", 4, group_size=2, autoreset_mode="Disabled")
        for options in ({"seed": 5}, {}, {}):
            _, infos = envs.reset(**options)
            boards = infos["suffix"].tolist()
            assert boards[0] == boards[1] != boards[2] == boards[3]

    def test_unseeded_groups_begin_alike(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector("game:Game2048-v0-easy", 4, group_size=2)
        boards = envs.reset()[1]["suffix"].tolist()
        assert boards[0] == boards[1]
        assert boards[2] == boards[3]

    def test_episodes_are_truncated(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector("game:Game2048-v0-easy", 2, max_episode_steps=2)
        envs.reset(seed=1)
        rows = [envs.step([tiles(0, 0), tiles(1, 1)]) for _ in range(4)]
        assert [row[3].tolist() for row in rows] == [[0, 0], [1, 1], [0, 0], [0, 0]]

    def test_renders(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector(num_envs=2, render_mode="ansi")
        obs, _ = envs.reset(seed=1)
        assert envs.render() == obs

    def test_sandboxes_are_shared_as_asked(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector(num_envs=4, envs_per_sandbox=2)
        envs.reset(seed=1)
        assert len({sandbox.id for sandbox in envs.get_attr("sandbox")}) == 2

    def test_infos_lose_nothing(self, obedient: Callable[..., SandboxVectorEnv]) -> None:
        envs = obedient(3)
        envs.reset()
        *_, infos = envs.step(["info 1", "info 0.7", "info None"])
        assert infos["value"].tolist() == [1, 0.7, None]

    def test_actions_are_texts(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector(num_envs=2)
        envs.reset(seed=1)
        with pytest.raises(SpecError, match="strings"):
            envs.step(["\\boxed{1}", 2])
        envs.step(np.array(["\\boxed{1}", "\\boxed{2}"]))

    def test_what_is_wrong_for_all_is_raised(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        with pytest.raises(SpecError, match="nowhere"):
            SandboxVectorEnv(gem_id=GUESS, num_envs=2, backend="nowhere").reset()
        with pytest.raises(EnvUnavailable):
            vector("math:Math12K", 2).reset()
        with pytest.raises(SpecError):
            vector("my:Unknown-v0", 2).reset()

    @pytest.mark.parametrize(
        "arguments",
        [
            {"gem_ids": [GUESS] * 3, "num_envs": 2},
            {"gem_ids": GUESS},
            {"gem_ids": []},
            {"group_size": 3},
            {"group_size": 0},
            {"num_envs": 0},
            {"step_timeout": 0},
            {"memmory": "1g"},
        ],
    )
    def test_arguments_that_make_no_sense(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(SpecError):
            SandboxVectorEnv(**{"gem_id": GUESS, "num_envs": 2, **arguments})

    def test_it_is_not_for_a_forked_child(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector(num_envs=2)
        envs.reset(seed=1)
        pid = os.fork()
        if pid == 0:
            try:
                envs.step(["a", "b"])
            except EnvClosed:
                envs.close()
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        envs.step(["\\boxed{1}", "\\boxed{2}"])


class TestAhead:
    GEM_ID = "game:Game2048-v0-easy"

    def episodes(self, envs: SandboxVectorEnv, **first: Any) -> list[list[str]]:
        """The first boards of some episodes, some seeded and most not."""
        boards = [envs.reset(**first)[1]["suffix"].tolist()]
        for options in ({}, {}, {"seed": 8}, {}, {"seed": [1, None]}, {}, {}):
            boards.append(envs.reset(**options)[1]["suffix"].tolist())
            envs.step([tiles(0, 0), tiles(1, 0)])
        return boards

    def test_sequences_are_what_they_are_without(
        self, vector: Callable[..., SandboxVectorEnv]
    ) -> None:
        settings: dict[str, Any] = {"autoreset_mode": "Disabled"}
        ahead = self.episodes(vector(self.GEM_ID, speculative_reset=True, **settings), seed=3)
        plain = self.episodes(vector(self.GEM_ID, speculative_reset=False, **settings), seed=3)
        assert ahead == plain

    def test_the_next_episode_is_played_by_the_other_process(
        self, vector: Callable[..., SandboxVectorEnv]
    ) -> None:
        envs = vector(self.GEM_ID, 1, speculative_reset=True)
        player: Any = envs._players[0]
        pids = []
        for _ in range(4):
            envs.reset(seed=None)
            pids.append(player._worker.pid)
        assert len(set(pids)) == 2
        assert pids[0] == pids[2] != pids[1] == pids[3]

    def test_what_was_prepared_and_died_is_asked_for_anew(
        self, vector: Callable[..., SandboxVectorEnv]
    ) -> None:
        envs = vector(self.GEM_ID, 1, speculative_reset=True)
        plain = vector(self.GEM_ID, 1, speculative_reset=False)
        for each in (envs, plain):
            each.reset(seed=4)
        player: Any = envs._players[0]
        spare = player._speculation._spare
        while spare.pid is None:
            spare.try_receive()
        os.kill(pid_of(spare), signal.SIGKILL)
        obs, infos = envs.reset()
        assert "fault" not in infos
        assert obs == plain.reset()[0]

    def test_nothing_is_prepared_while_the_policy_does_not_think(
        self, vector: Callable[..., SandboxVectorEnv]
    ) -> None:
        envs = vector(self.GEM_ID, 1, speculative_reset=True)
        player: Any = envs._players[0]
        pace = player._speculation._pace = Pace()
        pids = []
        for thinks in (True, False, False, True, True):
            pace.thinks = thinks
            envs.reset(seed=None)
            pids.append(player._worker.pid)
        # The second is the last that was prepared in time, until the fifth.
        assert pids[1] == pids[2] == pids[3]
        assert pids[0] == pids[4] != pids[1]

    def test_what_thinking_is(self) -> None:
        pace = Pace()
        assert pace.thinks

        def acts_at_once() -> bool:
            pace.answered()
            pace.acted()
            pace.acted()
            return not pace.thinks

        assert eventually(acts_at_once)
        pace.answered()
        threading.Event().wait(0.1)
        pace.acted()
        assert pace.thinks
        assert eventually(acts_at_once)

    def test_only_slow_resets_are_prepared_unasked(
        self, vector: Callable[..., SandboxVectorEnv]
    ) -> None:
        for gem_id, ahead in (("game:Sokoban-v0-easy", True), (GUESS, False)):
            player: Any = vector(gem_id, 1)._players[0]
            assert (player._speculation is not None) is ahead


def test_the_single_make_is_not_changed() -> None:
    env = rock_gym.make(GUESS)
    assert isinstance(env.unwrapped, rock_gym.GemEnv)
    env.close()
