"""GemEnv's contract, over a worker that is faked."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import rock_gym
from rock_gym.envs import EnvClosed, GemEnv, ResetNeeded
from rock_gym.envs.render import FRAME_SHAPE, draw_text
from rock_gym.envs.texts import compose
from rock_gym.errors import (
    EnvError,
    EnvUnavailable,
    PoolExhausted,
    ResetTimeout,
    RockGymError,
    SandboxClosed,
    SandboxLost,
    SpecError,
    StepTimeout,
    WireError,
)
from rock_gym.spec import SandboxSpec
from tests.envs.fakes import TURNS, Leases

GYM_ID = "gem-game/GuessTheNumber-easy-v0"
GEM_ID = "game:GuessTheNumber-v0-easy"

pytestmark = pytest.mark.usefixtures("leases")


def play(env: gym.Env[Any, Any]) -> tuple[Any, ...]:
    """Step to the end; returns the last step's five values."""
    while True:
        result = env.step("a")
        if result[2] or result[3]:
            return result


class TestLease:
    def test_making_and_closing_starts_nothing(self, leases: Leases) -> None:
        env = gym.make(GYM_ID)
        assert env.unwrapped.sandbox is None
        env.close()
        env.close()
        assert not leases.workers
        assert not leases.pools

    def test_the_first_reset_leases_and_later_ones_keep_it(self, leases: Leases) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            env.reset()
            assert env.sandbox == "sandbox 0"
            assert len(leases.workers) == 1
        assert env.sandbox is None
        assert leases.last.closed == 1
        env.close()
        assert leases.last.closed == 1

    def test_the_default_pool_is_made_from_what_was_asked_for(self, leases: Leases) -> None:
        with GemEnv(GEM_ID, backend="docker", image="i", cpus=2, memory="1g", disk="2g") as env:
            env.reset()
        spec = SandboxSpec.of("i", cpus=2, memory="1g", disk="2g")
        assert leases.pools == [("docker", spec)]
        assert leases.last.pool == "default pool"

    def test_a_pool_that_is_passed_is_used(self, leases: Leases) -> None:
        pool: Any = object()
        with GemEnv(GEM_ID, pool=pool, envs_per_sandbox=3) as env:
            env.reset()
        assert leases.pools == []
        assert leases.last.pool is pool
        assert leases.last.envs_per_sandbox == 3

    def test_the_worker_is_told_what_to_make(self, leases: Leases, tmp_path: Path) -> None:
        rows = [{"problem": "1+1", "answer": "2"}]
        with GemEnv(
            "my:Env",
            imports=["a.b"],
            python_path=[tmp_path],
            dataset=rows,
            guest_python="p",
            size=3,
        ) as env:
            env.reset()
        config = leases.last.config
        assert (config.gem_id, config.kwargs, config.dataset) == ("my:Env", {"size": 3}, rows)
        assert config.guest_python == "p"
        assert (tuple(config.imports), tuple(config.python_path)) == (("a.b",), (str(tmp_path),))
        # The directory has to be visible inside.
        assert leases.pools[0][1].read_only == (str(tmp_path),)

    def test_an_unclosed_one_is_freed_with_a_warning(self, leases: Leases) -> None:
        def forget() -> None:
            GemEnv(GEM_ID).reset()

        with pytest.warns(ResourceWarning, match="unclosed GemEnv"):
            forget()
        assert leases.last.closed == 1

    def test_it_is_freed_even_if_the_warning_is_an_error(self, leases: Leases) -> None:
        env = GemEnv(GEM_ID)
        env.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ResourceWarning):
                env.__del__()
        assert leases.last.closed == 1

    def test_one_that_never_leased_goes_quietly(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            GemEnv(GEM_ID).close()
            GemEnv(GEM_ID)
            with pytest.raises(SpecError):
                GemEnv("")
            gc.collect()

    def test_a_forked_child_leaves_the_lease_to_its_parent(self, leases: Leases) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            pid = os.fork()
            if pid == 0:
                os._exit(_play_in_child(env, leases))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert env.step("a")[0].startswith("turn 1")
            assert leases.last.closed == 0


def _play_in_child(env: GemEnv, leases: Leases) -> int:
    """Return 0 if the child of a fork steps only in an episode of its own."""
    try:
        try:
            env.step("a")
            return 1
        except ResetNeeded:
            pass
        env.reset()
        env.step("a")
        mine = env.sandbox == "sandbox 1" and leases.workers[0].closed == 0
        env.close()
        return 0 if mine and [worker.closed for worker in leases.workers] == [0, 1] else 2
    except BaseException:
        return 3


class TestSeeds:
    def test_a_seed_reaches_gem_as_it_is(self, leases: Leases) -> None:
        with GemEnv(GEM_ID) as env:
            for seed in (0, 42, 2**32 - 1):
                env.reset(seed=seed)
                assert env.np_random_seed == seed
        assert leases.last.seeds == [0, 42, 2**32 - 1]

    def test_seeds_beyond_gems_range_decide_one_within_it(self, leases: Leases) -> None:
        with GemEnv(GEM_ID) as env:
            for seed in (2**32, 2**32, 2**40, 2**100):
                env.reset(seed=seed)
        first, again, other, large = leases.last.seeds
        assert first == again != other != large
        assert all(0 <= seed < 2**32 for seed in leases.last.seeds)

    def test_unseeded_episodes_follow_from_the_seed(self, leases: Leases) -> None:
        with GemEnv(GEM_ID) as env:
            for _ in range(2):
                env.reset(seed=5)
                for _ in range(3):
                    env.reset()
        seeds = leases.last.seeds
        assert seeds[:4] == seeds[4:]
        assert len(set(seeds)) == 4

    def test_unseeded_ones_differ_between_environments(self, leases: Leases) -> None:
        for _ in range(2):
            with GemEnv(GEM_ID) as env:
                env.reset()
        assert leases.workers[0].seeds != leases.workers[1].seeds
        assert all(type(seed) is int for worker in leases.workers for seed in worker.seeds)

    def test_a_negative_seed_is_refused(self) -> None:
        with GemEnv(GEM_ID) as env, pytest.raises(gym.error.Error):
            env.reset(seed=-1)

    def test_sampling_leaves_the_seeds_alone(self, leases: Leases) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset(seed=5)
            env.reset()
            env.reset(seed=5)
            env.sample_random_action()
            env.action_space.sample()
            env.reset()
        assert leases.last.seeds[1] == leases.last.seeds[3]


class TestEpisode:
    def test_an_observation_is_what_an_agent_reads(self) -> None:
        with GemEnv(GEM_ID) as env:
            observation, info = env.reset(seed=1)
            assert observation == "rules 1\nboard 0"
            assert info == {"suffix": "board 0", "list": [1]}
            observation, reward, terminated, truncated, info = env.step("x")
            assert observation == "turn 1 of 1: x\nboard 1"
            assert (reward, terminated, truncated) == (1.0, False, False)
            assert info == {"suffix": "board 1", "list": [1]}
            assert observation in env.observation_space

    def test_raw_is_what_gem_gives(self) -> None:
        with GemEnv(GEM_ID, observation="raw", render_mode="ansi") as env:
            assert env.reset(seed=1)[0] == "rules 1"
            assert env.step("x")[0] == "turn 1 of 1: x\n"
            assert env.render() == "turn 1 of 1: x\nboard 1"

    @pytest.mark.parametrize(
        ("info", "composed"),
        [
            ({}, "t"),
            ({"prefix": "p\n"}, "p\nt"),
            ({"prefix": "p", "suffix": "s"}, "p\nt\ns"),
            ({"prefix": "", "suffix": ""}, "t"),
            ({"suffix": 3}, "t"),
        ],
    )
    def test_parts_are_put_together_by_lines(self, info: dict[str, Any], composed: str) -> None:
        assert compose("t", info) == composed

    def test_terminated_wins(self) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            *_, terminated, truncated, _ = play(env)
            assert (terminated, truncated) == (True, False)

    def test_gems_own_parts_are_given_when_asked_for(self) -> None:
        with GemEnv(GEM_ID, gem_info=True) as env:
            _, info = env.reset(seed=4)
            assert info["gem"] == {"observation": "rules 4", "seed": 4}
            *_, info = play(env)
            assert info["gem"]["terminated"] is True
            assert info["gem"]["truncated"] is True
            assert info["gem"]["observation"].startswith("turn 3")

    def test_types_are_plain(self) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            observation, reward, terminated, truncated, info = env.step("a")
            kinds = [type(value) for value in (observation, reward, terminated, truncated)]
            assert kinds == [str, float, bool, bool]
            json.dumps(info)

    def test_infos_are_fresh_and_hold_nothing_of_the_sandbox(self) -> None:
        with GemEnv(GEM_ID) as env:
            infos = [env.reset(seed=1)[1], env.step("a")[4], env.step("a")[4]]
            assert len({id(info) for info in infos}) == 3
            assert len({id(info["list"]) for info in infos}) == 3
            assert "sandbox" not in json.dumps(infos)

    def test_an_action_may_be_numpys(self, leases: Leases) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            env.step(np.array(["up"])[0])
        assert type(leases.last.actions[0]) is str

    @pytest.mark.parametrize("action", [None, 3, b"up", ["up"], np.array(["up"])])
    def test_any_other_action_is_refused_and_changes_nothing(self, action: Any) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            with pytest.raises(SpecError, match="must be a string"):
                env.step(action)
            assert env.step("a")[0].startswith("turn 1")

    def test_options_are_ignored(self, leases: Leases) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset(seed=3, options={"seed": 4, "unknown": object()})
        assert leases.last.seeds == [3]

    def test_limits_are_handed_on(self, leases: Leases) -> None:
        with GemEnv(GEM_ID, step_timeout=2, reset_timeout=None) as env:
            env.reset()
            env.step("a")
        assert leases.last.timeouts == [None, 2.0]
        with GemEnv(GEM_ID) as env:
            env.reset()
            env.step("a")
        reset, step = leases.last.timeouts
        assert 59 < reset <= 60  # type: ignore[operator]
        assert step == 30

    def test_a_text_beyond_the_space_is_a_fault(self, leases: Leases) -> None:
        with GemEnv(GEM_ID, max_length=100) as env:
            env.reset(seed=1)
            leases.last.text = "x" * 101
            with pytest.raises(EnvError, match="larger max_length"):
                env.step("a")
            with pytest.raises(EnvError, match="larger max_length"):
                env.reset()
            leases.last.text = None
            env.reset()


class TestOrder:
    @pytest.mark.parametrize("make", [GemEnv, lambda gem_id: gym.make(GYM_ID)])
    def test_no_step_before_a_reset(self, make: Callable[[str], Any]) -> None:
        with make(GEM_ID) as env, pytest.raises(gym.error.ResetNeeded):
            env.step("a")

    @pytest.mark.parametrize("make", [GemEnv, lambda gem_id: gym.make(GYM_ID)])
    def test_no_step_after_the_end(self, make: Callable[[str], Any]) -> None:
        """GEM would go on, and could pay again."""
        with make(GEM_ID) as env:
            env.reset()
            play(env)
            with pytest.raises(ResetNeeded, match="reset"):
                env.step("a")
            env.reset()
            env.step("a")

    def test_nothing_after_close(self) -> None:
        env = GemEnv(GEM_ID, render_mode="ansi")
        env.reset()
        env.close()
        for use in (env.reset, env.render, lambda: env.step("a")):
            with pytest.raises(EnvClosed, match="closed"):
                use()

    def test_both_errors_are_gymnasiums_and_ours(self) -> None:
        assert issubclass(ResetNeeded, (RockGymError, gym.error.ResetNeeded))
        assert issubclass(EnvClosed, RockGymError)
        assert issubclass(EnvClosed, gym.error.ClosedEnvironmentError)
        assert str(pickle.loads(pickle.dumps(EnvClosed("x")))) == "x"


class TestFaults:
    @pytest.mark.parametrize("error", [StepTimeout, EnvError, WireError])
    def test_after_a_fault_in_a_step_the_next_reset_works(
        self, leases: Leases, error: type[RockGymError]
    ) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            leases.last.faults.append(error("x"))
            with pytest.raises(error):
                env.step("a")
            with pytest.raises(ResetNeeded):
                env.step("a")
            env.reset()
            assert env.step("a")[0].startswith("turn 1")
        assert len(leases.workers) == 1

    @pytest.mark.parametrize("error", [ResetTimeout, EnvError, WireError, EnvUnavailable])
    def test_after_a_fault_in_a_reset_the_next_works(
        self, leases: Leases, error: type[RockGymError]
    ) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            leases.last.faults.append(error("x"))
            with pytest.raises(error):
                env.reset()
            with pytest.raises(ResetNeeded):
                env.step("a")
            env.reset()
            env.step("a")
        assert len(leases.workers) == 1
        # A seed that failed is not tried for ever.
        assert len(set(leases.last.seeds)) == 3

    def test_a_sandbox_lost_in_a_step_is_replaced_at_the_next_reset(self, leases: Leases) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            leases.last.faults.append(SandboxLost("x"))
            with pytest.raises(SandboxLost):
                env.step("a")
            assert env.sandbox is None
            assert leases.last.closed == 1
            env.reset()
            assert env.sandbox == "sandbox 1"

    @pytest.mark.parametrize("error", [SandboxLost, SandboxClosed])
    def test_a_sandbox_lost_between_episodes_is_replaced_unseen(
        self, leases: Leases, error: type[RockGymError]
    ) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            leases.last.faults.append(error("x"))
            observation, _ = env.reset(seed=9)
            assert observation.startswith("rules 9")
            assert env.sandbox == "sandbox 1"
        assert [worker.closed for worker in leases.workers] == [1, 1]

    def test_a_fresh_sandbox_that_is_lost_is_a_fault(self, leases: Leases) -> None:
        """Or an environment that kills its sandbox would be tried for ever."""
        original = leases.lease

        def lease(*args: Any) -> Any:
            worker = original(*args)
            worker.faults.append(SandboxLost("x"))
            return worker

        leases.lease = lease  # type: ignore[method-assign]
        with pytest.MonkeyPatch.context() as patch, GemEnv(GEM_ID) as env:
            patch.setattr("rock_gym.envs.gem_env.lease_worker", lease)
            with pytest.raises(SandboxLost):
                env.reset()
        assert [worker.closed for worker in leases.workers] == [1]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    @pytest.mark.parametrize("verb", ["step", "reset"])
    def test_an_answer_that_was_not_waited_for_is_never_read(
        self, leases: Leases, error: type[BaseException], verb: str
    ) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            leases.last.faults.append(error())
            with pytest.raises(error):
                env.step("a") if verb == "step" else env.reset()
            assert leases.last.closed == 1
            env.reset()
            assert env.sandbox == "sandbox 1"

    def test_a_lease_that_fails_is_tried_again_at_the_next_reset(self, leases: Leases) -> None:
        leases.faults.append(PoolExhausted("x"))
        with GemEnv(GEM_ID) as env:
            with pytest.raises(PoolExhausted):
                env.reset()
            env.reset()

    def test_time_spent_on_the_lease_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = iter([0.0, 0.0, 61.0])
        with GemEnv(GEM_ID) as env:
            monkeypatch.setattr("rock_gym.envs.gem_env.time.monotonic", lambda: next(now))
            with pytest.raises(ResetTimeout):
                env.reset()


class TestArguments:
    @pytest.mark.parametrize(
        ("kwargs", "advice"),
        [
            ({"gem_id": ""}, "gem_id"),
            ({"gem_id": None}, "gem_id"),
            ({"observation": "both"}, "'text', 'raw'"),
            ({"render_mode": "human"}, "'ansi', 'rgb_array'"),
            ({"step_timeout": 0}, "positive"),
            ({"step_timeout": -1}, "positive"),
            ({"reset_timeout": float("inf")}, "None"),
            ({"reset_timeout": "60"}, "seconds"),
            ({"reset_timeout": True}, "seconds"),
            ({"memory": "much"}, "memory"),
            ({"cpus": 0}, "cpus"),
            ({"image": ""}, "image"),
            ({"max_length": 0}, "max_length"),
            ({"envs_per_sandbox": 0}, "envs_per_sandbox"),
            ({"imports": "my_pkg"}, r"\['my_pkg'\]"),
            ({"imports": ["my-pkg"]}, "my-pkg"),
            ({"python_path": "src"}, r"\['src'\]"),
            ({"python_path": ["/no/such/place"]}, "/no/such/place"),
            ({"memmory": "1g"}, r"did you mean memory=\?"),
            ({"max_turns": np.int64(3)}, "max_turns= must be a JSON value"),
            ({"config": {"a": [1, {2: 3}]}}, r"config=\['a'\]\[1\]"),
            ({"rate": float("nan")}, "JSON"),
            ({"pool": object(), "memory": "1g"}, "pool="),
            ({"pool": object(), "backend": "docker"}, "pool="),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, kwargs: dict[str, Any], advice: str) -> None:
        with pytest.raises(SpecError, match=advice):
            GemEnv(**{"gem_id": GEM_ID, **kwargs})

    def test_gems_own_arguments_pass(self, leases: Leases) -> None:
        given = {"dim_room": (6, 6), "datasets": [{"a": None}], "seed": 3, "num_words": 2.5}
        with GemEnv(GEM_ID, **given) as env:
            env.reset()
        assert leases.last.config.kwargs == {**given, "dim_room": [6, 6]}


class TestCopies:
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
    def test_a_copy_is_made_anew(self, leases: Leases, copied: Callable[[GemEnv], GemEnv]) -> None:
        with GemEnv(GEM_ID, observation="raw", size=3, step_timeout=5, memory="1g") as env:
            env.reset(seed=1)
            env.step("a")
            with copied(env) as twin:
                assert twin.sandbox is None
                assert twin.reset(seed=1) == env.reset(seed=1)
                assert repr(twin.action_space) == repr(env.action_space)
        assert leases.workers[0].config == leases.workers[1].config
        assert leases.pools[0] == leases.pools[1]

    def test_specs_make_the_same_again(self, leases: Leases) -> None:
        with gym.make(GYM_ID, max_turns=5, render_mode="ansi") as env:
            spec = env.spec
            assert spec is not None
            others = [EnvSpec.from_json(spec.to_json()), pickle.loads(pickle.dumps(spec)), spec]
            first = env.reset(seed=1)
            for other in others:
                with other.make() as twin:
                    assert twin.reset(seed=1) == first
                    assert twin.spec == spec
                    assert twin.render_mode == "ansi"
        assert all(worker.config == leases.workers[0].config for worker in leases.workers)
        assert not any(isinstance(value, SandboxSpec) for value in spec.kwargs.values())


class TestRender:
    def test_ansi_is_the_text(self) -> None:
        with GemEnv(GEM_ID, render_mode="ansi") as env:
            observation, _ = env.reset()
            assert env.render() == observation
            observation, *_ = env.step("a")
            assert env.render() == observation

    def test_rgb_array_is_the_text_drawn(self) -> None:
        with GemEnv(GEM_ID, render_mode="rgb_array") as env:
            observation, _ = env.reset()
            frame = env.render()
            assert np.array_equal(frame, draw_text(observation))
            assert frame.shape == FRAME_SHAPE

    def test_without_a_mode_it_says_how_to_get_one(self) -> None:
        with GemEnv(GEM_ID) as env:
            env.reset()
            with pytest.warns(UserWarning, match="render_mode="):
                assert env.render() is None

    @pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
    def test_there_is_nothing_before_the_first_reset(self, mode: str) -> None:
        with GemEnv(GEM_ID, render_mode=mode) as env, pytest.raises(ResetNeeded):
            env.render()

    @pytest.mark.parametrize("mode", ["ansi_list", "rgb_array_list"])
    def test_lists_collect_an_episode(self, mode: str) -> None:
        with gym.make(GYM_ID, render_mode=mode) as env:
            env.reset()
            play(env)
            assert len(env.render()) == TURNS + 1

    def test_wrappers_that_want_frames_are_content(self) -> None:
        """The same calls as RecordVideo makes, which itself wants moviepy to write its file."""
        with gym.make(GYM_ID, render_mode="rgb_array") as env:
            wrapped = gym.wrappers.AddRenderObservation(env, render_only=True)
            observation, _ = wrapped.reset()
            assert observation in wrapped.observation_space
            assert wrapped.step("a")[0].shape == FRAME_SHAPE


class TestSampling:
    def test_it_reads_the_rules_and_the_board(self, leases: Leases) -> None:
        with GemEnv("game:Game2048-v0-easy") as env:
            env.reset()
            leases.last.text = "   2   4   8  16\n" * 3 + "   2   4   8   .\n"
            env.step("a")
            env.action_space.seed(1)
            moves = {env.sample_random_action() for _ in range(40)}
            assert moves == {rf"\boxed{{{way}}}" for way in ("up", "down", "right")}

    def test_the_action_space_seeds_it(self) -> None:
        with GemEnv("rg:gcd") as env:
            drawn = []
            for _ in range(2):
                env.action_space.seed(3)
                drawn.append([env.sample_random_action() for _ in range(5)])
            assert drawn[0] == drawn[1]

    def test_it_can_be_called_on_what_make_returns(self) -> None:
        with gym.make(GYM_ID) as env:
            env.reset()
            assert re.fullmatch(r"\\boxed{\d+}", env.unwrapped.sample_random_action())
            assert env.get_wrapper_attr("sample_random_action")() in env.action_space


class TestGymnasium:
    @pytest.mark.parametrize("gem_id", [GEM_ID, "rg:gcd", "code:Taco8k", "qa:HotpotQA"])
    def test_the_checker_has_no_complaint(self, gem_id: str) -> None:
        """Warnings are errors in this suite."""
        for mode in (None, "ansi", "rgb_array"):
            with rock_gym.make(gem_id, render_mode=mode) as env:
                check_env(env.unwrapped)

    def test_wrappers_work(self) -> None:
        env: Any = gym.make(GYM_ID, max_episode_steps=2)
        env = gym.wrappers.RecordEpisodeStatistics(env)
        env = gym.wrappers.TransformReward(env, lambda reward: reward * 10)
        upper = gym.wrappers.TransformObservation(env, str.upper, env.observation_space)
        with upper:
            observation, _ = upper.reset(seed=1)
            assert observation == "RULES 1\nBOARD 0"
            upper.step("a")
            observation, reward, terminated, truncated, info = upper.step("a")
            assert (reward, terminated, truncated) == (20.0, False, True)
            assert (info["episode"]["r"], info["episode"]["l"]) == (3.0, 2)

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    @pytest.mark.parametrize("vectorizer", ["sync", "async"])
    def test_gymnasiums_vectorizers_work(self, vectorizer: str, mode: AutoresetMode) -> None:
        envs: Any = gym.make_vec(
            GYM_ID, 3, vectorizer, vector_kwargs={"autoreset_mode": mode}, observation="raw"
        )
        envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
        try:
            texts, infos = envs.reset(seed=10)
            assert texts == ("rules 10", "rules 11", "rules 12")
            assert infos["suffix"].tolist() == ["board 0"] * 3
            for turn in range(1, TURNS + 1):
                texts, rewards, terminated, truncated, infos = envs.step(("a", "b", "c"))
                assert rewards.tolist() == [turn] * 3
                assert not truncated.any()
            assert terminated.all()
            assert infos["episode"]["l"].tolist() == [TURNS] * 3
            final = infos["final_obs"] if mode == AutoresetMode.SAME_STEP else texts
            assert list(final) == [f"turn 3 of {10 + i}: {c}\n" for i, c in enumerate("abc")]
            if mode == AutoresetMode.NEXT_STEP:
                assert envs.step(("a", "b", "c"))[0][0].startswith("rules")
        finally:
            envs.close()

    def test_a_closed_vector_env_has_closed_its_environments(self, leases: Leases) -> None:
        envs = gym.make_vec(GYM_ID, 3, "sync")
        envs.reset(seed=1)
        envs.close()
        assert [worker.closed for worker in leases.workers] == [1, 1, 1]

    def test_environments_of_several_kinds_share_a_vectorizer(self) -> None:
        makers = [lambda i=i: rock_gym.make(i) for i in (GEM_ID, "rg:gcd")]
        envs = gym.vector.SyncVectorEnv(makers)
        envs.reset(seed=1)
        envs.close()
