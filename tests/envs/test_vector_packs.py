"""Environments that share processes: a fault ends the episodes that it must, and no other."""

from __future__ import annotations

import gc
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gymnasium.vector import AutoresetMode

from rock_gym import SandboxPool
from rock_gym.envs import EnvClosed, SandboxVectorEnv
from rock_gym.errors import EnvError, EnvUnavailable, SpecError
from rock_gym.gem import wire
from tests.contract.support import members, wait_gone
from tests.envs.obedient import kill, make_vector, pid_of

# Three in the first process and two in the second.
NUMBER, TOGETHER = 5, 3
FIRST, SECOND = (0, 1, 2), (3, 4)
MODES = list(AutoresetMode)


@pytest.fixture
def vector(pool: SandboxPool, modules: Path) -> Iterator[Callable[..., SandboxVectorEnv]]:
    made = []

    def make(**kwargs: Any) -> SandboxVectorEnv:
        given = {"num_envs": NUMBER, "envs_per_process": TOGETHER}
        made.append(make_vector(pool, modules, **{**given, **kwargs}))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


def actions(**special: str) -> list[str]:
    """What each is to do: ``go``, but for ``_1="die"`` and the like."""
    return [special.get(f"_{number}", "go") for number in range(NUMBER)]


def check_faults(envs: SandboxVectorEnv, batch: Any, expected: dict[int, str]) -> None:
    """These have ended, by these faults, and all play on."""
    _, rewards, _, truncated, infos = batch
    kinds = [expected.get(number) for number in range(NUMBER)]
    assert infos["fault"].tolist() == kinds
    assert truncated.tolist() == [kind is not None for kind in kinds]
    assert rewards.tolist() == [0.5 if kind is None else 0.0 for kind in kinds]
    if envs.autoreset_mode is AutoresetMode.DISABLED:
        envs.reset(options={"reset_mask": truncated})
    if envs.autoreset_mode is AutoresetMode.NEXT_STEP:
        *_, infos = envs.step(actions())
        assert "fault" not in infos
    obs, rewards, *_, infos = envs.step(actions())
    assert "fault" not in infos
    assert rewards.tolist() == [0.5] * NUMBER
    turns = [text.split(":")[0] for text in obs]
    untouched = "turn 4" if envs.autoreset_mode is AutoresetMode.NEXT_STEP else "turn 3"
    assert turns == [untouched if kind is None else "turn 1" for kind in kinds]


def begun(envs: SandboxVectorEnv) -> SandboxVectorEnv:
    envs.reset(seed=1)
    envs.step(actions())
    return envs


@pytest.mark.parametrize("mode", MODES)
class TestFaults:
    def test_an_exception_is_its_own(
        self, vector: Callable[..., SandboxVectorEnv], mode: AutoresetMode
    ) -> None:
        envs = begun(vector(autoreset_mode=mode))
        pids = [pid_of(envs, number) for number in range(NUMBER)]
        assert pids == [pids[0]] * 3 + [pids[3]] * 2
        assert pids[0] != pids[3]
        check_faults(envs, envs.step(actions(_1="raise")), {1: "env_error"})
        assert [pid_of(envs, number) for number in range(NUMBER)] == pids

    def test_what_kills_the_process_ends_those_in_it(
        self, vector: Callable[..., SandboxVectorEnv], mode: AutoresetMode
    ) -> None:
        envs = begun(vector(autoreset_mode=mode))
        # What the first has done before is lost with the process, or was told in time.
        *_, infos = batch = envs.step(actions(_0="die"))
        assert infos["fault"].tolist()[:3] == ["env_error"] * 3
        check_faults(envs, batch, dict.fromkeys(FIRST, "env_error"))

    def test_a_hang_is_told_from_those_it_holds_up(
        self, vector: Callable[..., SandboxVectorEnv], mode: AutoresetMode
    ) -> None:
        envs = begun(vector(autoreset_mode=mode, step_timeout=0.5))
        batch = envs.step(actions(_0="hang"))
        check_faults(envs, batch, {0: "step_timeout", 1: "env_error", 2: "env_error"})

    def test_a_process_that_was_killed_before(
        self, vector: Callable[..., SandboxVectorEnv], mode: AutoresetMode
    ) -> None:
        envs = begun(vector(autoreset_mode=mode))
        kill({pid_of(envs, 4)})
        check_faults(envs, envs.step(actions()), dict.fromkeys(SECOND, "env_error"))


def test_a_process_that_is_killed_meanwhile(vector: Callable[..., SandboxVectorEnv]) -> None:
    envs = begun(vector())
    envs.send(actions(_3="hang"))
    answered = envs.recv(min_envs=3)[-1]["env_id"].tolist()
    assert answered == list(FIRST)
    kill({pid_of(envs, 3)})
    *_, infos = envs.recv()
    assert infos["env_id"].tolist() == list(SECOND)
    assert infos["fault"].tolist() == ["env_error"] * 2


def test_the_next_episode_begins_while_nobody_waits(
    vector: Callable[..., SandboxVectorEnv],
) -> None:
    envs = vector(num_envs=TOGETHER, autoreset_mode="SameStep")
    envs.reset(seed=1)
    envs.send(["end", "go", "go"])
    assert envs.recv(min_envs=2)[-1]["env_id"].tolist() == [1, 2]
    assert select.select([envs], [], [], 30)[0]
    obs, *_ = envs.recv(min_envs=1)
    assert obs[0].startswith("hello")


def test_those_before_a_slow_one_are_answered_first(
    vector: Callable[..., SandboxVectorEnv],
) -> None:
    envs = begun(vector())
    # Answers go out together, unless one has kept the next waiting.
    envs.send(actions(_0="sleep 0.01", _1="sleep 0.3"))
    *_, infos = envs.recv(min_envs=3)
    assert infos["env_id"].tolist() == [0, 3, 4]
    assert envs.recv()[-1]["env_id"].tolist() == [1, 2]


def test_a_reset_gives_up_what_is_owed(vector: Callable[..., SandboxVectorEnv]) -> None:
    envs = begun(vector(autoreset_mode="Disabled"))
    pid = pid_of(envs, 0)
    envs.send(actions(_0="sleep 0.05"))
    obs, _ = envs.reset(seed=1)
    assert obs == vector().reset(seed=1)[0]
    obs, *_ = envs.step(actions())
    assert all(text.startswith("turn 1") for text in obs)
    assert pid_of(envs, 0) == pid


def test_lone_surrogates_do_no_harm(vector: Callable[..., SandboxVectorEnv]) -> None:
    envs = begun(vector())
    obs, *_, infos = envs.step(actions(_1="a\ud800b", _2="info '\\ud800'"))
    assert "fault" not in infos
    assert obs[1].startswith("turn 2: a\ufffdb")
    assert infos["value"][2] == "\ufffd"


def test_what_is_too_large_is_its_own_fault(vector: Callable[..., SandboxVectorEnv]) -> None:
    envs = begun(vector())
    big = "info 'x' * 5_000_000"
    *_, infos = envs.step(actions(_1=big))
    assert infos["fault"].tolist() == [None, "env_error", None, None, None]
    envs.reset(seed=1)
    # Each may be sent, but not all at once.
    large = "info 'x' * 4_100_000"
    *_, infos = envs.step([f"{large} #{'y' * 4_100_000}"] * NUMBER)
    assert [len(value) for value in infos["value"]] == [4_100_000] * NUMBER
    with pytest.raises(SpecError, match="cannot be sent"):
        envs.step(["x" * 17_000_000] * NUMBER)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        bytes(wire.encode(wire.Hello())),
        b"\x00\x00\x00\x01\xc1",
        bytes(wire.encode(wire.Answers([]))),
        bytes(wire.encode(wire.Answers([wire.Observed("a reset", wire.tidy_info({}))]))),
        bytes(wire.encode(wire.Answers([wire.Failed("env_error", "x")] * (TOGETHER + 1)))),
    ],
)
def test_what_is_no_answer_ends_those_it_may_be_of(
    vector: Callable[..., SandboxVectorEnv], data: bytes
) -> None:
    envs = begun(vector())
    pid = pid_of(envs, 0)
    *_, infos = envs.step(actions(_0=f"forge {data.hex()}"))
    kinds = infos["fault"].tolist()
    assert set(kinds[:TOGETHER]) & {"wire_error", "env_error"}
    assert kinds[TOGETHER:] == [None] * 2
    assert not wait_gone({pid})
    # What was owed to others of that process is lost with it, at the latest at the next turn.
    envs.step(actions())
    envs.step(actions())
    *_, infos = envs.step(actions())
    assert "fault" not in infos


def test_what_is_wrong_for_all_is_raised(vector: Callable[..., SandboxVectorEnv]) -> None:
    with pytest.raises(EnvUnavailable, match="no_such_module"):
        vector(imports=["no_such_module"]).reset(seed=1)


def test_one_that_cannot_be_made_is_no_matter_to_the_others(
    vector: Callable[..., SandboxVectorEnv],
) -> None:
    ids = ["my:Obedient-v0", "my:Unmakeable-v0", "my:Obedient-v0"]
    envs = vector(gem_id=None, gem_ids=ids, num_envs=None)
    alone = vector(num_envs=3).reset(seed=1)[0]
    for _ in range(2):
        obs, infos = envs.reset(seed=1)
        assert infos["fault"].tolist() == [None, "env_error", None]
        assert (obs[0], obs[2]) == (alone[0], alone[2])
    obs, *_, infos = envs.step(["go"] * 3)
    assert infos["fault"].tolist() == [None, "env_error", None]
    assert [text.startswith("turn 1") for text in obs] == [True, False, True]


def test_closing_ends_the_processes(vector: Callable[..., SandboxVectorEnv]) -> None:
    envs = begun(vector(step_timeout=None))
    pids = {pid_of(envs, number) for number in range(NUMBER)}
    envs.send(["hang"] * NUMBER)
    envs.close()
    assert not wait_gone(pids)


def forget(held: list[SandboxVectorEnv]) -> None:
    held.clear()
    gc.collect()


def test_a_vector_that_is_forgotten_ends_its_processes(pool: SandboxPool, modules: Path) -> None:
    envs = begun(make_vector(pool, modules, num_envs=NUMBER, envs_per_process=TOGETHER))
    pids = {pid_of(envs, number) for number in range(NUMBER)}
    held = [envs]
    del envs
    with pytest.warns(ResourceWarning, match="unclosed"):
        forget(held)
    assert not wait_gone(pids)


def test_a_forked_child_does_it_no_harm(vector: Callable[..., SandboxVectorEnv]) -> None:
    envs = begun(vector())
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with pytest.raises(EnvClosed):
                envs.step(actions())
            envs.close()
            gc.collect()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    obs, *_, infos = envs.step(actions())
    assert "fault" not in infos
    assert all(text.startswith("turn 2") for text in obs)


def test_faults_can_be_raised(vector: Callable[..., SandboxVectorEnv]) -> None:
    envs = begun(vector(on_fault="raise"))
    with pytest.raises(EnvError, match="as told"):
        envs.step(actions(_1="raise"))
    assert envs.recv()[-1]["env_id"].tolist() == [0, 2, 3, 4]
    obs, *_ = envs.step(actions())
    assert obs[1].startswith("hello")


def test_groups_may_spread_over_processes(vector: Callable[..., SandboxVectorEnv]) -> None:
    envs = vector(num_envs=6, group_size=2, envs_per_process=3)
    for seed in (5, None):
        obs, _ = envs.reset(seed=seed)
        assert obs[0] == obs[1] != obs[2] == obs[3] != obs[4] == obs[5]


def test_inner_environments_are_not_for_stepping(vector: Callable[..., SandboxVectorEnv]) -> None:
    envs = begun(vector())
    with pytest.raises(SpecError, match="step the vector"):
        envs.envs[0].step("go")


# Near the end, as no guest that others could use stays warm after it.
def test_a_lost_sandbox_is_followed_by_another(vector: Callable[..., SandboxVectorEnv]) -> None:
    # Room for one process in each.
    envs = begun(vector(envs_per_sandbox=TOGETHER))
    before = [sandbox.id for sandbox in envs.get_attr("sandbox")]
    assert len(set(before)) == 2
    kill(members(envs.get_attr("sandbox")[0]))
    check_faults(envs, envs.step(actions()), dict.fromkeys(FIRST, "sandbox_lost"))
    after = [sandbox.id for sandbox in envs.get_attr("sandbox")]
    assert after[:3] == [after[0]] * 3
    assert after[0] not in before
    assert after[3:] == before[3:]


@pytest.mark.parametrize(
    "arguments",
    [
        {"gem_id": "code:CodeContest", "envs_per_process": 2},
        {"gem_id": "my:Own-v0", "envs_per_process": 2},
        {"gem_id": "game:Sokoban-v0-easy", "envs_per_process": 65},
        {"gem_id": "game:Sokoban-v0-easy", "envs_per_process": 0},
        {"gem_id": "game:Sokoban-v0-easy", "envs_per_process": 2, "speculative_reset": True},
    ],
)
def test_what_makes_no_sense(arguments: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="envs_per_process"):
        SandboxVectorEnv(num_envs=4, **arguments)
