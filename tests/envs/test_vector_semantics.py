"""What gymnasium's vectorizers do, the vector environment does, over environments in threads."""

from __future__ import annotations

import gc
import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rock_gym.envs import EpisodeOver, SandboxVectorEnv, Unicode
from rock_gym.errors import SpecError, StepTimeout
from tests.contract.support import eventually
from tests.envs.vector_games import Countdown, Gated, Slow, counters

MODES = list(AutoresetMode)
SPACES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-1, 1, (2, 3), np.float32),
    "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    "half": spaces.Box(-1.0, 1.0, (3,), np.float16),
    "discrete": spaces.Discrete(5, start=-2),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary((2, 2)),
    "text": spaces.Text(8),
    "unicode": Unicode(20),
    "tuple": spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 1, (2,))]),
    "dict": spaces.Dict(a=spaces.Discrete(2), b=spaces.Dict(c=spaces.Box(0, 1, (1,)))),
    "graph": spaces.Graph(spaces.Box(0, 1, (2,)), spaces.Discrete(3)),
    "sequence": spaces.Sequence(spaces.Discrete(4)),
    "stacked": spaces.Sequence(spaces.Box(0, 1, (2,)), stack=True),
    "one_of": spaces.OneOf([spaces.Discrete(2), spaces.Box(0, 1, (2,))]),
}


def cart_poles(number: int, **kwargs: Any) -> list[Callable[[], Any]]:
    return [lambda: gym.make("CartPole-v1", **kwargs) for _ in range(number)]


def disabled_safe(envs: Any, over: Any) -> None:
    """Under a disabled autoreset, reset what is over."""
    if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
        envs.reset(options={"reset_mask": over})


class TestAgainstGymnasium:
    @pytest.mark.parametrize("mode", MODES)
    def test_cart_pole_is_step_by_step_the_same(self, mode: AutoresetMode) -> None:
        ours = SandboxVectorEnv(cart_poles(4), autoreset_mode=mode)
        theirs = SyncVectorEnv(cart_poles(4), autoreset_mode=mode)
        for name in ("observation_space", "action_space", "num_envs"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.single_observation_space == theirs.single_observation_space
        assert ours.single_action_space == theirs.single_action_space
        assert data_equivalence(ours.reset(seed=3), theirs.reset(seed=3))
        theirs.action_space.seed(4)
        for _ in range(120):
            actions = theirs.action_space.sample()
            mine = ours.step(actions)
            his = theirs.step(actions)
            assert data_equivalence(mine, his)
            disabled_safe(ours, mine[2] | mine[3])
            disabled_safe(theirs, mine[2] | mine[3])
        assert ours.np_random_seed == theirs.np_random_seed == (3, 4, 5, 6)
        ours.close()
        theirs.close()

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("name", SPACES)
    def test_each_kind_of_space_is_batched_as_theirs(self, name: str, mode: AutoresetMode) -> None:
        makers = counters(2, 3, 2, space=SPACES[name])
        ours = SandboxVectorEnv(makers, autoreset_mode=mode)
        theirs = SyncVectorEnv(makers, autoreset_mode=mode)
        assert ours.observation_space == theirs.observation_space
        for envs in (ours, theirs):
            results = [envs.reset(seed=1)]
            for _ in range(4):
                results.append(envs.step(np.array([1, 2, 3])))  # type: ignore[arg-type]
                disabled_safe(envs, results[-1][2] | results[-1][3])  # type: ignore[misc]
            for result in results:
                assert result[0] in envs.observation_space
            shapes = [sorted(result[-1]) for result in results]
            if envs is ours:
                kept = shapes
            else:
                assert shapes == kept
        ours.close()
        theirs.close()

    @pytest.mark.parametrize("name", SPACES)
    def test_final_observations_are_of_the_single_space(self, name: str) -> None:
        envs = SandboxVectorEnv(
            counters(1, 2, space=SPACES[name]), autoreset_mode=AutoresetMode.SAME_STEP
        )
        envs.reset()
        *_, infos = envs.step([1, 1])
        assert infos["final_obs"][0] in envs.single_observation_space
        assert infos["final_obs"][1] is None
        assert infos["_final_obs"].tolist() == [True, False]
        envs.close()

    @pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(0, 1, (2,)), Unicode(5)])
    def test_actions_come_as_a_batch_or_a_list(self, space: spaces.Space[Any]) -> None:
        class Taker(Countdown):
            def __init__(self) -> None:
                super().__init__()
                self.action_space = space

            def step(self, action: Any) -> Any:
                assert action in space
                return super().step(0)

        envs = SandboxVectorEnv([Taker] * 3)
        envs.reset()
        envs.step(envs.action_space.sample())
        envs.step([envs.single_action_space.sample() for _ in range(3)])
        with pytest.raises(SpecError, match="2 actions for 3"):
            envs.step([envs.single_action_space.sample() for _ in range(2)])
        envs.close()


class TestAutoreset:
    def test_next_step(self) -> None:
        envs = SandboxVectorEnv(counters(2, 3, 3), autoreset_mode="NextStep")
        obs, _ = envs.reset()
        assert obs.tolist() == [0, 0, 0]
        rows = [envs.step([1, 2, 3])[:4] for _ in range(4)]
        assert [row[0].tolist() for row in rows] == [[1, 1, 1], [2, 2, 2], [0, 3, 3], [1, 0, 0]]
        assert [row[1].tolist() for row in rows] == [[1, 2, 3], [1, 2, 3], [0, 2, 3], [1, 0, 0]]
        assert [row[2].tolist() for row in rows] == [
            [False] * 3,
            [True, False, False],
            [False, True, True],
            [False] * 3,
        ]
        envs.close()

    def test_same_step(self) -> None:
        envs = SandboxVectorEnv(counters(2, 3), autoreset_mode="same_step")
        envs.reset()
        *_, infos = envs.step([1, 2])
        assert "final_obs" not in infos
        obs, rewards, terminated, _, infos = envs.step([1, 2])
        assert obs.tolist() == [0, 2]
        assert (rewards.tolist(), terminated.tolist()) == ([1, 2], [True, False])
        assert infos["final_obs"].tolist() == [2, None]
        assert infos["final_info"]["count"].tolist() == [2, 0]
        assert infos["_final_info"].tolist() == [True, False]
        assert infos["_began"].tolist() == [True, False]
        assert infos["count"].tolist() == [0, 2]
        envs.close()

    def test_disabled_refuses_a_finished_episode(self) -> None:
        envs = SandboxVectorEnv(counters(1, 2), autoreset_mode=AutoresetMode.DISABLED)
        envs.reset()
        _, _, terminated, _, _ = envs.step([1, 1])
        with pytest.raises(EpisodeOver, match="environment 0"):
            envs.step([1, 1])
        with pytest.raises(AssertionError):
            envs.step([1, 1])
        options = {"reset_mask": terminated, "other": 1}
        obs, infos = envs.reset(seed=[5, 6], options=options)
        assert options == {"reset_mask": terminated, "other": 1}
        assert obs.tolist() == [0, 1]
        assert infos["_began"].tolist() == [True, False]
        assert envs.get_attr("seeds") == ([None, 5], [None])
        assert envs.get_attr("options")[0] == [None, {"other": 1}]
        envs.step([1, 1])
        envs.close()

    @pytest.mark.parametrize(
        ("mask", "error"),
        [
            ([True, False], TypeError),
            (np.array([True]), ValueError),
            (np.array([[True, True]]), ValueError),
            (np.array([1, 0]), TypeError),
            (np.array([False, False]), ValueError),
        ],
    )
    def test_a_mask_that_makes_no_sense(self, mask: Any, error: type[Exception]) -> None:
        envs = SandboxVectorEnv(counters(1, 2))
        envs.reset()
        with pytest.raises(error, match="reset_mask"):
            envs.reset(options={"reset_mask": mask})
        envs.close()

    @pytest.mark.parametrize("mode", MODES)
    def test_the_mode_is_in_metadata_and_nowhere_else(self, mode: AutoresetMode) -> None:
        for given in (mode, mode.value, mode.name.lower()):
            envs = SandboxVectorEnv(counters(1), autoreset_mode=given)
            assert envs.metadata["autoreset_mode"] is mode
            assert "autoreset_mode" not in Countdown.metadata
            envs.close()
        with pytest.raises(SpecError, match="autoreset_mode"):
            SandboxVectorEnv(counters(1), autoreset_mode="sometimes")

    def test_episodes_are_truncated_after_so_many_steps(self) -> None:
        envs = SandboxVectorEnv(counters(9, 2), max_episode_steps=3)
        envs.reset()
        rows = [envs.step([0, 0]) for _ in range(4)]
        assert [row[3].tolist() for row in rows] == [[0, 0], [0, 0], [1, 0], [0, 0]]
        assert [row[2].tolist() for row in rows] == [[0, 0], [0, 1], [0, 0], [0, 0]]
        envs.close()


class TestSeeds:
    def test_an_int_is_counted_up(self) -> None:
        envs = SandboxVectorEnv(counters(9, 9, 9))
        for seed in (3, np.int64(3)):
            envs.reset(seed=seed)  # type: ignore[arg-type]
        envs.reset(seed=[7, None, 8])
        envs.reset()
        assert envs.get_attr("seeds") == (
            [3, 3, 7, None],
            [4, 4, None, None],
            [5, 5, 8, None],
        )
        with pytest.raises(ValueError, match="one for each of 3"):
            envs.reset(seed=[1])
        envs.close()

    def test_groups_share_a_seed(self) -> None:
        envs = SandboxVectorEnv(counters(9, 9, 9, 9), group_size=2)
        envs.reset(seed=3)
        assert [seeds[-1] for seeds in envs.get_attr("seeds")] == [3, 3, 4, 4]
        envs.close()


class TestCalls:
    def test_call_and_attributes(self) -> None:
        envs = SandboxVectorEnv(counters(4, 5))
        assert envs.call("double", 4) == (8, 8)
        assert envs.call("double", number=5) == (10, 10)
        assert envs.get_attr("length") == (4, 5)
        envs.set_attr("length", [1, 2])
        assert envs.get_attr("length") == (1, 2)
        envs.set_attr("length", 7)
        assert envs.get_attr("length") == (7, 7)
        with pytest.raises(ValueError, match="3 values for 2"):
            envs.set_attr("length", [1, 2, 3])
        with pytest.raises(AttributeError):
            envs.get_attr("nothing")
        envs.close()

    def test_render(self) -> None:
        envs = SandboxVectorEnv(counters(4, 5))
        envs.reset()
        assert envs.render_mode == "ansi"
        assert envs.render() == ("0 of 4", "0 of 5")
        envs.close()

    def test_leaving_its_context_closes_it(self) -> None:
        with SandboxVectorEnv(counters(4, 5)) as envs:
            envs.reset()
        with pytest.raises(gym.error.ClosedEnvironmentError):
            envs.reset()

    def test_each_is_closed_by_its_thread_and_only_once(self) -> None:
        envs = SandboxVectorEnv(counters(4, 5))
        inner = envs.envs
        envs.close()
        envs.close()
        assert [env.closed_by for env in inner] == [env.thread for env in inner]  # type: ignore[attr-defined]
        for call in (envs.reset, lambda: envs.step([0, 0]), lambda: envs.call("double", 1)):
            with pytest.raises(ClosedEnvironmentError):
                call()  # type: ignore[operator]

    def test_one_that_is_forgotten_leaves_no_thread(self) -> None:
        before = threading.active_count()
        SandboxVectorEnv(counters(4, 5)).reset()
        gc.collect()
        assert eventually(lambda: threading.active_count() == before)

    def test_names(self) -> None:
        envs = SandboxVectorEnv(counters(4, 5))
        assert repr(envs) == "SandboxVectorEnv(num_envs=2)"
        assert envs.unwrapped is envs
        envs.close()


class TestObservations:
    def test_a_batch_is_the_callers_own(self) -> None:
        envs = SandboxVectorEnv(cart_poles(2))
        first, _ = envs.reset(seed=1)
        kept = first.copy()
        envs.step([0, 1])
        assert (first == kept).all()
        envs.close()

    def test_without_copy_the_next_batch_overwrites_it(self) -> None:
        envs = SandboxVectorEnv(cart_poles(2), copy=False)
        first, _ = envs.reset(seed=1)
        second, *_ = envs.step([0, 1])
        assert first is second
        envs.close()

    def test_different_spaces(self) -> None:
        makers = [
            lambda high=high: Countdown(space=spaces.Box(0, high, (2,)))  # type: ignore[misc]
            for high in (1, 2)
        ]
        with pytest.raises(RuntimeError, match="observation_mode='different'"):
            SandboxVectorEnv(makers)
        envs = SandboxVectorEnv(makers, observation_mode="different")
        theirs = SyncVectorEnv(makers, observation_mode="different")
        assert envs.observation_space == theirs.observation_space
        envs.close()
        single = spaces.Box(0, 2, (2,))
        batched = spaces.Box(0, 2, (2, 2))
        envs = SandboxVectorEnv(makers, observation_mode=(batched, single))
        assert (envs.observation_space, envs.single_observation_space) == (batched, single)
        envs.close()
        for wrong, error in (("other", ValueError), ((1, 2), TypeError)):
            with pytest.raises(error, match="observation_mode"):
                SandboxVectorEnv(makers, observation_mode=wrong)  # type: ignore[arg-type]

    def test_spaces_that_do_not_fit(self) -> None:
        def other() -> Any:
            env = Countdown()
            env.action_space = spaces.Discrete(2)
            return env

        with pytest.raises(RuntimeError, match="environment 1 takes"):
            SandboxVectorEnv([Countdown, other])
        with pytest.raises(RuntimeError, match="environment 1"):
            SandboxVectorEnv([*cart_poles(1), Countdown])


class TestByParts:
    def test_who_is_ready_is_received_first(self) -> None:
        envs = SandboxVectorEnv([lambda: Gated(length=9)] * 3)
        envs.reset()
        envs.send([7, 1, 7])
        obs, rewards, _, _, infos = envs.recv(min_envs=1)
        assert infos["env_id"].tolist() == [1]
        assert (obs.tolist(), rewards.tolist()) == ([1], [1.0])
        assert infos["count"].tolist() == [1]
        envs.send([2], env_ids=[1])
        assert envs.recv(min_envs=1)[-1]["env_id"].tolist() == [1]
        for env in envs.envs:
            env.gate.release()  # type: ignore[attr-defined]
        assert envs.recv()[-1]["env_id"].tolist() == [0, 2]
        with pytest.raises(NoAsyncCallError):
            envs.recv()
        envs.close()

    def test_recv_gives_up_after_its_time(self) -> None:
        envs = SandboxVectorEnv([lambda: Gated(length=9)] * 2)
        envs.reset()
        envs.send([7, 7])
        obs, rewards, *_, infos = envs.recv(timeout=0.01)
        assert (len(obs), len(rewards), infos["env_id"].tolist()) == (0, 0, [])
        envs.envs[0].gate.release()  # type: ignore[attr-defined]
        assert envs.recv(min_envs=1)[-1]["env_id"].tolist() == [0]
        envs.envs[1].gate.release()  # type: ignore[attr-defined]
        assert envs.recv()[-1]["env_id"].tolist() == [1]
        envs.close()

    def test_what_is_out_of_turn_is_refused(self) -> None:
        envs = SandboxVectorEnv([lambda: Gated(length=9)] * 2)
        envs.reset()
        envs.send([7], [0])
        for call in (
            lambda: envs.send([1], [0]),
            lambda: envs.step([1, 1]),
            lambda: envs.step_async([1, 1]),
        ):
            with pytest.raises(AlreadyPendingCallError):
                call()
        for ids in ([0, 0], [2], [-1]):
            with pytest.raises(SpecError, match="env_ids"):
                envs.send([1] * len(ids), ids)
        envs.envs[0].gate.release()  # type: ignore[attr-defined]
        envs.recv()
        envs.step([1, 1])
        envs.close()

    def test_a_reset_gives_up_what_was_sent(self) -> None:
        envs = SandboxVectorEnv(counters(9, 9))
        envs.reset()
        envs.send([5, 5])
        obs, _ = envs.reset()
        assert obs.tolist() == [0, 0]
        assert envs.step([1, 2])[0].tolist() == [1, 1]
        envs.close()

    def test_some_are_reset_while_others_play(self) -> None:
        envs = SandboxVectorEnv([lambda: Gated(length=9)] * 2, autoreset_mode="Disabled")
        envs.reset()
        envs.send([7, 1])
        envs.recv(min_envs=1)
        envs.send_reset([1], seed=5)
        obs, rewards, *_, infos = envs.recv(min_envs=1)
        assert (obs.tolist(), rewards.tolist()) == ([0], [0.0])
        assert infos["env_id"].tolist() == [1]
        assert envs.envs[1].seeds[-1] == 6  # type: ignore[attr-defined]
        envs.envs[0].gate.release()  # type: ignore[attr-defined]
        assert envs.recv()[0].tolist() == [1]
        envs.close()


class TestHalves:
    def test_they_make_the_whole(self) -> None:
        envs = SandboxVectorEnv(counters(2, 3))
        envs.reset_async(seed=1)
        obs, _ = envs.reset_wait()
        assert obs.tolist() == [0, 0]
        envs.step_async([1, 2])
        assert envs.step_wait()[1].tolist() == [1, 2]
        envs.close()

    def test_out_of_order(self) -> None:
        envs = SandboxVectorEnv(counters(2, 3))
        with pytest.raises(NoAsyncCallError, match="reset_wait"):
            envs.reset_wait()
        envs.reset()
        with pytest.raises(NoAsyncCallError, match="step_wait"):
            envs.step_wait()
        envs.step_async([1, 1])
        with pytest.raises(AlreadyPendingCallError, match="pending call to `step`"):
            envs.reset_async()
        with pytest.warns(UserWarning, match="Calling `close` while .* pending call to `step`"):
            envs.close()
        envs.close()

    def test_calls_have_halves(self) -> None:
        envs = SandboxVectorEnv(counters(2, 3))
        envs.call_async("double", 4)
        for other in (lambda: envs.step([0, 0]), lambda: envs.call_async("length")):
            with pytest.raises(AlreadyPendingCallError):
                other()
        with pytest.raises(NoAsyncCallError, match="step_wait"):
            envs.step_wait()
        assert envs.call_wait(timeout=10) == (8, 8)
        with pytest.raises(NoAsyncCallError, match="call_wait"):
            envs.call_wait()
        envs.call_async("nothing")
        with pytest.raises(AttributeError):
            envs.call_wait()
        envs.call_async("length")
        assert envs.call_wait() == (2, 3)
        envs.close()

    def test_a_call_that_takes_too_long_can_still_be_waited_for(self) -> None:
        gates = [threading.Event(), threading.Event()]

        class Waits(Countdown):
            def wait(self) -> bool:
                return gates.pop().wait(10)

        held = list(gates)
        envs = SandboxVectorEnv([Waits] * 2)
        envs.call_async("wait")
        with pytest.raises(multiprocessing.TimeoutError, match="call_wait"):
            envs.call_wait(timeout=0.01)
        for gate in held:
            gate.set()
        assert envs.call_wait() == (True, True)
        envs.close()

    def test_a_wait_has_a_limit(self) -> None:
        envs = SandboxVectorEnv([Gated] * 2)
        envs.reset()
        envs.step_async([7, 0])
        with pytest.raises(multiprocessing.TimeoutError):
            envs.step_wait(timeout=0.01)
        envs.envs[0].gate.release()  # type: ignore[attr-defined]
        assert envs.step_wait()[0].tolist() == [1, 1]
        envs.close()


class TestErrors:
    def test_what_a_function_raises_is_raised(self) -> None:
        def broken() -> Any:
            raise LookupError("no such game")

        before = threading.active_count()
        with pytest.raises(LookupError, match="no such game"):
            SandboxVectorEnv([Countdown, broken])
        assert eventually(lambda: threading.active_count() == before)

    def test_an_error_is_raised_and_others_keep_their_answers(self) -> None:
        envs = SandboxVectorEnv([Slow] * 3)
        envs.reset()
        with pytest.raises(RuntimeError, match="as told"):
            envs.step([1, 999, 2])
        *_, infos = envs.recv()
        assert infos["env_id"].tolist() == [0, 2]
        obs, *_ = envs.step([0, 0, 0])
        assert obs.tolist() == [2, 0, 2]
        envs.close()

    @pytest.mark.parametrize("mode", MODES)
    def test_an_error_can_end_the_episode_instead(self, mode: AutoresetMode) -> None:
        envs = SandboxVectorEnv(
            [lambda: Slow(length=9)] * 2, on_fault="truncate", autoreset_mode=mode
        )
        envs.reset()
        envs.step([1, 1])
        obs, rewards, terminated, truncated, infos = envs.step([2, 999])
        assert rewards.tolist() == [2, 0]
        assert (terminated.tolist(), truncated.tolist()) == ([False] * 2, [False, True])
        assert infos["fault"].tolist() == [None, "env_error"]
        assert infos["_fault"].tolist() == [False, True]
        if mode is AutoresetMode.SAME_STEP:
            assert obs.tolist() == [2, 0]
            assert infos["final_obs"].tolist() == [None, 1]
            assert infos["final_info"]["fault"].tolist() == [None, "env_error"]
        else:
            assert obs.tolist() == [2, 1]
        disabled_safe(envs, truncated)
        obs, *_ = envs.step([1, 1])
        assert obs.tolist() == ([3, 0] if mode is AutoresetMode.NEXT_STEP else [3, 1])
        envs.close()

    def test_a_hang_ends_at_its_limit_and_delays_nobody(self) -> None:
        envs = SandboxVectorEnv([Gated] * 2, on_fault="truncate", step_timeout=0.3)
        envs.reset()
        stuck = envs.envs[0]
        envs.send([7, 1])
        assert envs.recv(min_envs=1)[-1]["env_id"].tolist() == [1]
        *_, truncated, infos = envs.recv()
        assert truncated.tolist() == [True]
        assert infos["fault"].tolist() == ["step_timeout"]
        obs, *_ = envs.step([1, 1])
        assert obs.tolist() == [0, 2]
        assert envs.envs[0] is not stuck
        stuck.gate.release()  # type: ignore[attr-defined]
        envs.close()

    def test_a_limit_is_raised_too(self) -> None:
        envs = SandboxVectorEnv([Gated], step_timeout=0.05)
        envs.reset()
        stuck = envs.envs[0]
        with pytest.raises(StepTimeout, match=r"0\.05 s"):
            envs.step([7])
        stuck.gate.release()  # type: ignore[attr-defined]
        envs.close()

    def test_close_does_not_wait_for_the_stuck(self) -> None:
        envs = SandboxVectorEnv([Gated] * 2)
        envs.reset()
        envs.send([7, 7])
        began = time.monotonic()
        envs.close(timeout=0.1)
        assert time.monotonic() - began < 5
        for player in envs._players:
            player._host.env.gate.release()  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        "arguments",
        [
            {"env_fns": []},
            {"env_fns": [Countdown], "gem_id": "game:Sokoban-v0-easy"},
            {"env_fns": [Countdown], "worker": print},
            {"env_fns": [Countdown], "on_fault": "ignore"},
            {"env_fns": [Countdown], "max_episode_steps": 0},
            {"env_fns": [Countdown], "max_concurrency": 0},
            {},
        ],
    )
    def test_arguments_that_make_no_sense(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(SpecError):
            SandboxVectorEnv(**arguments)


def test_so_many_run_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()

    class Counted(Countdown):
        def step(self, action: Any) -> Any:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.01)
            with lock:
                running -= 1
            return super().step(action)

    envs = SandboxVectorEnv([Counted] * 6, max_concurrency=2)
    envs.reset()
    envs.step([0] * 6)
    assert most <= 2
    envs.close()
