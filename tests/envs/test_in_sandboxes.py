"""GemEnv over real sandboxes: faults, lifetimes, forks, and gymnasium's vectorizers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import rock_gym
from rock_gym import GemEnv, SandboxPool
from rock_gym.envs import ResetNeeded
from rock_gym.errors import (
    EnvError,
    EnvUnavailable,
    PoolClosed,
    ResetTimeout,
    SandboxLost,
    SpecError,
    StepTimeout,
)
from rock_gym.gem.places import with_guest
from rock_gym.spec import SandboxSpec
from tests.contract.support import members, within
from tests.gem.local import pid_of

GEM_ID = "game:GuessTheNumber-v0-easy"

# An environment that does what it is told, to itself.
OBEDIENT = """
import os, random, time
import gem

class Obedient(gem.Env):
    def __init__(self, greeting="hello", **_):
        self.greeting = greeting

    def reset(self, seed=None):
        super().reset(seed)
        if self.greeting == "hang":
            while True:
                pass
        return f"{self.greeting} {random.random()}", {"suffix": f"pid {os.getpid()}"}

    def step(self, action):
        if action == "hang":
            while True:
                pass
        if action == "die":
            os._exit(3)
        if action == "raise":
            raise RuntimeError("as told")
        if action == "long":
            return "x" * 3_000_000, 0.0, False, False, {}
        if action == "end":
            return "over", 1.0, True, True, {}
        return f"told {action}", 0.5, False, False, {"seen": [action]}

gem.register("my:Obedient-v0", Obedient)
"""


@pytest.fixture(scope="module")
def obedient_text() -> str:
    return OBEDIENT


@pytest.fixture
def obedient(pool: SandboxPool, modules: Path) -> Iterator[Callable[..., GemEnv]]:
    made = []

    def make(**kwargs: Any) -> GemEnv:
        given = {"imports": ["obedient"], "python_path": [modules], "pool": pool, **kwargs}
        # What GEM does not ship gets a sandbox of its own by default, which takes longer.
        given.setdefault("envs_per_sandbox", 64)
        made.append(GemEnv("my:Obedient-v0", **given))
        return made[-1]

    yield make
    for env in made:
        env.close()


class TestFaults:
    def test_a_step_that_hangs_is_ended(self, obedient: Callable[..., GemEnv]) -> None:
        env = obedient(step_timeout=0.5)
        env.reset()
        with within(5), pytest.raises(StepTimeout):
            env.step("hang")
        with pytest.raises(ResetNeeded):
            env.step("a")
        env.reset()
        assert env.step("a")[0] == "told a"

    def test_a_reset_that_hangs_is_ended(self, obedient: Callable[..., GemEnv]) -> None:
        obedient().reset()  # the sandbox is up
        env = obedient(greeting="hang", reset_timeout=1)
        with within(5), pytest.raises(ResetTimeout):
            env.reset()

    def test_a_process_that_dies_is_replaced(self, obedient: Callable[..., GemEnv]) -> None:
        env = obedient()
        env.reset()
        with pytest.raises(EnvError, match="process"):
            env.step("die")
        env.reset()
        assert env.step("a")[1] == 0.5

    def test_what_gem_raises_comes_out_with_its_traceback(
        self, obedient: Callable[..., GemEnv]
    ) -> None:
        env = obedient()
        env.reset()
        with pytest.raises(EnvError, match="as told") as caught:
            env.step("raise")
        assert "obedient.py" in (caught.value.output or "")
        env.reset()
        env.step("a")

    def test_a_text_too_long_is_no_text(self, obedient: Callable[..., GemEnv]) -> None:
        env = obedient()
        env.reset()
        with pytest.raises(EnvError, match="max_length"):
            env.step("long")
        env.reset()
        assert len(obedient(max_length=4_000_000).reset()[0]) < 100

    def test_a_lost_sandbox_is_replaced(self, obedient: Callable[..., GemEnv]) -> None:
        env = obedient()
        env.reset()
        first = env.sandbox
        assert first is not None
        first.stop()
        with pytest.raises(SandboxLost):
            env.step("a")
        env.reset()
        assert env.sandbox is not first

    def test_one_lost_between_episodes_is_replaced_unseen(
        self, obedient: Callable[..., GemEnv]
    ) -> None:
        env = obedient()
        env.reset()
        assert env.sandbox is not None
        env.sandbox.stop()
        env.reset()
        env.step("a")

    def test_neighbours_go_on_while_one_is_ended(self, pool: SandboxPool) -> None:
        """A question of this environment keeps its process in one C call after the other."""
        with (
            rock_gym.make(GEM_ID, pool=pool) as neighbour,
            rock_gym.make("rg:number_sequence", pool=pool, reset_timeout=1.5) as stuck,
        ):
            neighbour.reset(seed=1)
            stuck.reset(seed=5)
            assert stuck.unwrapped.sandbox is neighbour.unwrapped.sandbox
            with ThreadPoolExecutor(1) as thread:
                waiting = thread.submit(stuck.reset, seed=3)
                steps = 0
                while not waiting.done():
                    *_, terminated, truncated, _ = neighbour.step(r"\boxed{1}")
                    if terminated or truncated:
                        neighbour.reset()
                    steps += 1
                assert isinstance(waiting.exception(), ResetTimeout)
            assert steps > 50
            stuck.reset(seed=5)
            stuck.step(r"\boxed{1}")

    def test_a_wrong_id_or_module_says_so(self, pool: SandboxPool) -> None:
        unknown = gym.make("rock/Gem-v0", gem_id="my:Nothing", pool=pool)
        with unknown, pytest.raises(SpecError, match="imports="):
            unknown.reset()
        missing = GemEnv("my:Env", imports=["no_such_module"], pool=pool)
        with missing, pytest.raises(EnvUnavailable, match="no_such_module"):
            missing.reset()

    def test_a_pool_closed_under_an_environment_is_typed(self, backend: str) -> None:
        pool = SandboxPool.from_spec(with_guest(SandboxSpec(), backend=backend), backend=backend)
        with pool, GemEnv(GEM_ID, pool=pool) as env:
            env.reset()
            pool.close()
            with pytest.raises(SandboxLost):
                env.step(r"\boxed{1}")
            with pytest.raises(PoolClosed):
                env.reset()


class TestLives:
    def test_the_environment_runs_inside(self, obedient: Callable[..., GemEnv]) -> None:
        env = obedient(envs_per_sandbox=None)
        env.reset()
        worker = env._worker
        assert worker is not None
        pid = pid_of(worker)
        assert pid in members(env.sandbox)
        kinds = ("pid", "mnt", "net", "user") if env.sandbox.backend != "docker" else ("pid", "mnt")
        for kind in kinds:
            assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")

    def test_infos_and_texts_are_gems(self, obedient: Callable[..., GemEnv]) -> None:
        env = obedient(greeting="hi", gem_info=True)
        observation, info = env.reset(seed=4)
        assert observation == f"{info['gem']['observation']}\n{info['suffix']}"
        assert env.step("√ \ud800")[0] == "told √ \ufffd"
        result = env.step("end")
        assert result[1:4] == (1.0, True, False)
        assert result[4]["gem"] == {"observation": "over", "terminated": True, "truncated": True}

    def test_closing_gives_the_sandbox_back(self, pool: SandboxPool) -> None:
        with rock_gym.make(GEM_ID, pool=pool, envs_per_sandbox=1) as env:
            env.reset()
            sandbox = env.unwrapped.sandbox
            assert sandbox.state == "running"
        assert sandbox.state == "deleted"

    def test_so_does_forgetting(self, pool: SandboxPool) -> None:
        held = []

        def forget() -> None:
            env = GemEnv(GEM_ID, pool=pool, envs_per_sandbox=1)
            env.reset()
            held.append(env.sandbox)

        with pytest.warns(ResourceWarning, match="unclosed GemEnv"):
            forget()
        assert held[0].state == "deleted"

    def test_environments_share_a_sandbox_up_to_a_number(self, pool: SandboxPool) -> None:
        envs = [GemEnv(GEM_ID, pool=pool, envs_per_sandbox=2) for _ in range(3)]
        try:
            for env in envs:
                env.reset()
            assert envs[0].sandbox is envs[1].sandbox is not envs[2].sandbox
        finally:
            for env in envs:
                env.close()

    def test_many_can_begin_at_once(self, pool: SandboxPool) -> None:
        envs = [GemEnv(GEM_ID, pool=pool) for _ in range(24)]
        try:
            with ThreadPoolExecutor(24) as threads:
                texts = [
                    r[0]
                    for r in threads.map(lambda pair: pair[1].reset(seed=pair[0]), enumerate(envs))
                ]
            assert texts == [envs[0].reset(seed=i)[0] for i in range(24)]
        finally:
            for env in envs:
                env.close()

    def test_a_forked_child_plays_in_a_sandbox_of_its_own(self, backend: str) -> None:
        with rock_gym.make(GEM_ID, backend=backend) as env:
            env.reset(seed=1)
            pid = os.fork()
            if pid == 0:
                os._exit(_play_in_child(env))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert env.step(r"\boxed{1}")[0].startswith("At turn 1")


def _play_in_child(env: gym.Env[Any, Any]) -> int:
    try:
        sandbox = env.unwrapped.sandbox
        try:
            env.step(r"\boxed{1}")
            return 1
        except ResetNeeded:
            pass
        text, _ = env.reset(seed=1)
        played = env.step(r"\boxed{1}")[0].startswith("At turn 1")
        own = sandbox is None and env.unwrapped.sandbox is not None
        env.close()
        return 0 if played and own and text else 2
    except BaseException:
        import traceback

        traceback.print_exc()
        return 3


class TestVectorizers:
    @pytest.mark.parametrize("vectorizer", ["sync", "async"])
    def test_they_see_what_one_environment_sees(
        self, vectorizer: str, backend: str, pool: SandboxPool
    ) -> None:
        """With gymnasium's defaults, its shared memory included."""
        envs = gym.make_vec("gem-game/GuessTheNumber-hard-v0", 3, vectorizer, backend=backend)
        try:
            seen = [envs.reset(seed=7)[0]]
            seen += [envs.step([r"\boxed{1}"] * 3)[0] for _ in range(2)]
        finally:
            envs.close()
        for i in range(3):
            with rock_gym.make("game:GuessTheNumber-v0-hard", pool=pool) as env:
                expected = [env.reset(seed=7 + i)[0]]
                expected += [env.step(r"\boxed{1}")[0] for _ in range(2)]
            assert [texts[i] for texts in seen] == expected

    def test_a_live_pool_survives_make(self, pool: SandboxPool) -> None:
        with gym.make("gem-game/GuessTheNumber-easy-v0", pool=pool) as env:
            spec = env.spec
            assert spec is not None
            with spec.make() as twin:
                assert twin.reset(seed=1) == env.reset(seed=1)
                assert twin.unwrapped.sandbox is env.unwrapped.sandbox
