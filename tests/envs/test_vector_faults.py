"""Faults of one environment of a vector, caused for real: it alone ends, and goes on afresh."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gymnasium.vector import AutoresetMode

from rock_gym import SandboxPool
from rock_gym.envs import SandboxVectorEnv
from rock_gym.errors import EnvError, PoolExhausted, SandboxLost
from rock_gym.gem.places import with_guest
from rock_gym.spec import SandboxSpec
from tests.contract.support import eventually, members, wait_gone
from tests.envs.obedient import kill, make_vector, pid_of
from tests.gem import local

MODES = list(AutoresetMode)
NUMBER = 3
FAULTY = 1


@pytest.fixture(scope="module", autouse=True)
def no_game_needs_gem() -> Iterator[None]:
    """A second of every start would go into importing it."""
    with pytest.MonkeyPatch.context() as patch:
        local.have_stubs(patch)
        yield


def spec_for(backend: str, modules: Path, **limits: Any) -> SandboxSpec:
    shown = (str(modules), local.STUB)
    return with_guest(SandboxSpec.of(read_only=shown, **limits), backend=backend)


@pytest.fixture(scope="module")
def pool(backend: str, modules: Path) -> Iterator[SandboxPool]:
    with SandboxPool.from_spec(spec_for(backend, modules), backend=backend) as pool:
        yield pool


@pytest.fixture
def vector(pool: SandboxPool, modules: Path) -> Iterator[Callable[..., SandboxVectorEnv]]:
    made = []

    def make(**kwargs: Any) -> SandboxVectorEnv:
        made.append(make_vector(pool, modules, **{"num_envs": NUMBER, **kwargs}))
        return made[-1]

    yield make
    for envs in made:
        began = time.monotonic()
        envs.close()
        assert time.monotonic() - began < 5


def guest_pid(envs: SandboxVectorEnv, number: int = FAULTY) -> int:
    """The process that an environment's was forked from."""
    stat = Path(f"/proc/{pid_of(envs, number)}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def kill_process(envs: SandboxVectorEnv) -> None:
    kill({pid_of(envs, FAULTY)})


def kill_guest(envs: SandboxVectorEnv) -> None:
    # Its environments' processes end with it.
    own = pid_of(envs, FAULTY)
    kill({guest_pid(envs)})
    assert not wait_gone({own})


def kill_sandbox(envs: SandboxVectorEnv) -> None:
    kill(members(envs.get_attr("sandbox")[FAULTY]))


def check_goes_on(envs: SandboxVectorEnv, batch: Any, kind: str) -> None:
    """Only one has ended, by a fault of that kind, and all can be played on."""
    obs, rewards, terminated, truncated, infos = batch
    faulty = [number == FAULTY for number in range(NUMBER)]
    assert infos["_fault"].tolist() == faulty
    assert infos["fault"][FAULTY] == kind
    assert rewards.tolist() == [0.0 if is_faulty else 0.5 for is_faulty in faulty]
    assert terminated.tolist() == [False] * NUMBER
    assert truncated.tolist() == faulty
    if envs.autoreset_mode is AutoresetMode.DISABLED:
        envs.reset(options={"reset_mask": truncated})
    obs, rewards, _, truncated, infos = envs.step(["more"] * NUMBER)
    assert "fault" not in infos
    if envs.autoreset_mode is AutoresetMode.NEXT_STEP:
        assert rewards.tolist() == [0.0 if is_faulty else 0.5 for is_faulty in faulty]
        assert obs[FAULTY].startswith("hello")
        obs, rewards, *_ = envs.step(["more"] * NUMBER)
    assert rewards.tolist() == [0.5] * NUMBER
    assert obs[FAULTY].startswith("turn 1")
    assert obs[0].startswith(
        "turn 4" if envs.autoreset_mode is AutoresetMode.NEXT_STEP else "turn 3"
    )


@pytest.mark.parametrize("mode", MODES)
class TestEachMode:
    @pytest.mark.parametrize(
        ("action", "kind"), [("raise", "env_error"), ("die", "env_error"), ("hang", "step_timeout")]
    )
    def test_what_a_step_does(
        self, vector: Callable[..., SandboxVectorEnv], mode: AutoresetMode, action: str, kind: str
    ) -> None:
        envs = vector(autoreset_mode=mode, step_timeout=1.0)
        envs.reset(seed=1)
        envs.step(["go"] * NUMBER)
        check_goes_on(envs, envs.step(["go", action, "go"]), kind)

    @pytest.mark.parametrize("under_way", [False, True], ids=["idle", "under way"])
    def test_a_process_that_is_killed(
        self, vector: Callable[..., SandboxVectorEnv], mode: AutoresetMode, under_way: bool
    ) -> None:
        envs = vector(autoreset_mode=mode)
        check_goes_on(envs, step_and_kill(envs, kill_process, under_way), "env_error")


def step_and_kill(
    envs: SandboxVectorEnv, kill: Callable[[SandboxVectorEnv], None], under_way: bool
) -> Any:
    """Kill something before a step or in the middle of it."""
    envs.reset(seed=1)
    envs.step(["go"] * NUMBER)
    if under_way:
        envs.send(["go", "hang", "go"])
        kill(envs)
    else:
        kill(envs)
        envs.send(["go"] * NUMBER)
    return envs.recv()


@pytest.mark.parametrize(
    ("kill", "under_way", "mode"),
    [
        (kill_guest, False, AutoresetMode.NEXT_STEP),
        (kill_guest, True, AutoresetMode.SAME_STEP),
        (kill_sandbox, False, AutoresetMode.DISABLED),
        (kill_sandbox, True, AutoresetMode.NEXT_STEP),
    ],
)
def test_a_sandbox_that_is_killed(
    vector: Callable[..., SandboxVectorEnv],
    kill: Callable[[SandboxVectorEnv], None],
    under_way: bool,
    mode: AutoresetMode,
) -> None:
    envs = vector(autoreset_mode=mode, envs_per_sandbox=1)
    check_goes_on(envs, step_and_kill(envs, kill, under_way), "sandbox_lost")


class TestOthers:
    def test_a_hang_delays_nobody(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector(step_timeout=3.0)
        envs.reset(seed=1)
        envs.send(["go", "hang", "go"])
        for _ in range(20):
            *_, infos = envs.recv(min_envs=1)
            answered = infos["env_id"].tolist()
            assert FAULTY not in answered
            envs.send(["go"] * len(answered), answered)
        seen: list[int] = []
        while FAULTY not in seen:
            *_, infos = envs.recv(min_envs=1)
            seen = infos["env_id"].tolist()
            if FAULTY in seen:
                assert infos["fault"][seen.index(FAULTY)] == "step_timeout"

    @pytest.mark.parametrize("look", ["recv", "take_in"])
    def test_who_has_answered_is_not_late_because_nobody_looked(
        self, vector: Callable[..., SandboxVectorEnv], look: str
    ) -> None:
        envs = vector(num_envs=1, step_timeout=0.2)
        envs.reset(seed=1)
        turn = envs.begin_step(["go"])
        select.select([envs], [], [])
        while time.monotonic() < envs.due_s:
            time.sleep(0.01)
        if look == "recv":
            *_, infos = envs.recv()
        else:
            envs.take_in()
            *_, infos = turn.take()
        assert "fault" not in infos

    def test_neighbours_in_a_lost_sandbox_are_lost_and_others_not(
        self, vector: Callable[..., SandboxVectorEnv]
    ) -> None:
        envs = vector(num_envs=4, envs_per_sandbox=2)
        envs.reset(seed=1)
        sandboxes = [sandbox.id for sandbox in envs.get_attr("sandbox")]
        kill_guest(envs)
        *_, infos = envs.step(["go"] * 4)
        lost = [sandbox == sandboxes[FAULTY] for sandbox in sandboxes]
        assert sum(lost) == 2
        assert infos["_fault"].tolist() == lost
        *_, infos = envs.step(["go"] * 4)
        assert "fault" not in infos
        after = [sandbox.id for sandbox in envs.get_attr("sandbox")]
        assert [a == b for a, b in zip(after, sandboxes, strict=True)] == [not x for x in lost]

    def test_a_full_disk(self, backend: str, modules: Path) -> None:
        pool = SandboxPool.from_spec(spec_for(backend, modules, disk="64m"), backend=backend)
        with pool:
            envs = make_vector(pool, modules, num_envs=NUMBER, envs_per_sandbox=1)
            envs.reset(seed=1)
            envs.step(["go"] * NUMBER)
            check_goes_on(envs, envs.step(["go", "fill", "go"]), "env_error")
            # It began anew in a sandbox that nobody had filled.
            assert envs.step(["look /tmp/full"] * NUMBER)[0][FAULTY] == "False"
            envs.close()

    def test_a_reset_that_hangs(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector()
        envs.reset(seed=1)
        # Only now, as importing GEM may take long.
        envs._players[FAULTY]._reset_timeout_s = 1.0  # type: ignore[attr-defined]
        envs.step(["go", "hang-next", "go"])
        *_, infos = envs.step(["end"] * NUMBER)
        assert "fault" not in infos
        obs, _, _, truncated, infos = envs.step(["go"] * NUMBER)
        assert infos["fault"].tolist() == [None, "reset_timeout", None]
        assert truncated.tolist() == [False, True, False]
        assert [text.startswith("hello") for text in obs] == [True, False, True]
        obs, *_ = envs.step(["go"] * NUMBER)
        assert [text.startswith("hello") for text in obs] == [False, True, False]

    def test_the_pool_is_exhausted(self, backend: str, modules: Path) -> None:
        spec = spec_for(backend, modules)
        with SandboxPool.from_spec(spec, backend=backend, min_idle=2, max_size=2) as pool:
            assert eventually(lambda: pool.statistics().idle == 2, 30)
            envs = make_vector(
                pool, modules, num_envs=NUMBER, envs_per_sandbox=1, reset_timeout=3.0
            )
            _, infos = envs.reset(seed=1)
            without = infos["_fault"].tolist()
            assert sum(without) == 1
            assert infos["fault"][without.index(True)] == "pool_exhausted"
            for player in envs._players:
                player._reset_timeout_s = 0.2  # type: ignore[attr-defined]
            _, rewards, _, truncated, infos = envs.step(["go"] * NUMBER)
            assert truncated.tolist() == without
            assert rewards.tolist() == [0.0 if absent else 0.5 for absent in without]
            envs.close()

    def test_nobody_gets_a_sandbox(self, backend: str, modules: Path) -> None:
        with SandboxPool.from_spec(spec_for(backend, modules), backend=backend, max_size=1) as pool:
            held = pool.acquire()
            envs = make_vector(pool, modules, num_envs=2, envs_per_sandbox=1, reset_timeout=0.5)
            with pytest.raises(PoolExhausted):
                envs.reset()
            held.release()
            envs.close()

    def test_faults_can_be_raised(self, vector: Callable[..., SandboxVectorEnv]) -> None:
        envs = vector(on_fault="raise")
        envs.reset(seed=1)
        with pytest.raises(EnvError, match="as told"):
            envs.step(["go", "raise", "go"])
        assert envs.recv()[-1]["env_id"].tolist() == [0, 2]
        assert envs.step(["go"] * NUMBER)[0][FAULTY].startswith("hello")
        kill_guest(envs)
        with pytest.raises(SandboxLost):
            envs.step(["go"] * NUMBER)

    def test_closing_ends_all_processes_of_the_stuck(
        self, vector: Callable[..., SandboxVectorEnv]
    ) -> None:
        envs = vector(step_timeout=None)
        envs.reset(seed=1)
        pids = [pid_of(envs, number) for number in range(NUMBER)]
        envs.send(["hang"] * NUMBER)
        envs.close()
        assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
