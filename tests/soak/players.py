"""Those who play GEM, alone and in a vector, while what they play in breaks."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym

from rock_gym import GemEnv, SandboxPool
from rock_gym.envs import ResetNeeded, SandboxVectorEnv
from rock_gym.errors import (
    EnvError,
    PoolExhausted,
    ResetTimeout,
    SandboxLost,
    SpecError,
    StepTimeout,
    WireError,
)
from rock_gym.gem.places import with_guest
from rock_gym.spec import SandboxSpec
from rock_gym.wrappers import Chaos, VectorChaos
from tests.contract.support import members, wait_gone
from tests.gem import local
from tests.soak.ledger import Ledger, Wrong, ensure, kill
from tests.soak.sandboxes import Actor

GEM_ID = "game:GuessTheNumber-v0-easy"
SEEDS = range(12)
FAULTS = (EnvError, PoolExhausted, ResetTimeout, SandboxLost, StepTimeout, WireError)
TRIES = 20

Turn = tuple[str, float, bool, bool]


def move(seed: int, turn: int) -> str:
    """What is played in an episode of a seed: the same in every one of them."""
    return f"\\boxed{{{random.Random(f'{seed} {turn}').randint(1, 10)}}}"


def pool_for(backend: str) -> SandboxPool:
    return SandboxPool.from_spec(with_guest(SandboxSpec.of(), backend=backend), backend=backend)


def true_episodes(backend: str) -> dict[int, list[Turn]]:
    """Each seed's episode, where nothing breaks."""
    told: dict[int, list[Turn]] = {}
    with pool_for(backend) as pool:
        env = GemEnv(GEM_ID, pool=pool)
        for seed in SEEDS:
            told[seed] = [(env.reset(seed=seed)[0], 0.0, False, False)]
            while not (told[seed][-1][2] or told[seed][-1][3]):
                obs, reward, *ends, _ = env.step(move(seed, len(told[seed]) - 1))
                told[seed].append((obs, float(reward), *ends))
        env.close()
    return told


class Player(Actor):
    """Plays one environment; what it is told must be the true episode, or a typed error."""

    def __init__(
        self, backend: str, seed: int, ledger: Ledger, truth: dict[int, list[Turn]]
    ) -> None:
        super().__init__(backend, seed, ledger)
        self.truth = truth
        self.pool = pool_for(backend)
        self.inner = GemEnv(GEM_ID, pool=self.pool)
        self.env = Chaos(self.inner, seed=seed, step_rate=0.02, reset_rate=0.05)
        self.begin()

    def actions(self) -> dict[Callable[[], None], int]:
        return {
            self.step: 40,
            self.begin: 2,
            self.nonsense: 3,
            self.fault_environment_killed: 2,
            self.fault_environment_killed_in_a_step: 2,
            self.fault_guest_killed: 1,
            self.fault_environments_sandbox_killed: 1,
        }

    def begin(self) -> None:
        """Begin an episode, which after faults may take several tries."""
        self.seed = self.random.choice(SEEDS)
        for _ in range(TRIES):
            try:
                obs, _ = self.env.reset(seed=self.seed)
            except FAULTS as error:
                self._note(error)
                continue
            break
        else:
            raise Wrong(f"no episode began in {TRIES} tries")
        ensure(obs == self.truth[self.seed][0][0], f"episode {self.seed} began with {obs!r}")
        self.turn_number, self.over = 0, False

    def _note(self, error: Exception) -> None:
        """Count what ``Chaos`` made up as a fault; others were counted when they were caused."""
        self.ledger.add(self.ledger.errors, type(error).__name__)
        if "made up" in str(error):
            self.ledger.add(self.ledger.faults, "made up by Chaos")
            self.ledger.add(self.ledger.survived, "made up by Chaos")

    def _step(self) -> Exception | None:
        """Take a turn; returns the typed error that it ended with."""
        try:
            obs, reward, *ends, _ = self.env.step(move(self.seed, self.turn_number))
        except FAULTS as error:
            self._note(error)
            self.over = True
            return error
        self.turn_number += 1
        told = (obs, float(reward), *ends)
        true = self.truth[self.seed][self.turn_number]
        ensure(told == true, f"turn {self.turn_number} of {self.seed}: {told}, truly {true}")
        self.over = ends[0] or ends[1]
        return None

    def step(self) -> None:
        if self.over:
            with self.ledger.refusal("step without an episode", ResetNeeded):
                self.env.step("x")
            self.begin()
        error = self._step()
        ensure(error is None or "made up" in str(error), f"a step failed by itself: {error!r}")

    def nonsense(self) -> None:
        if self.over:
            self.begin()
        with self.ledger.refusal("action that is no text", SpecError):
            self.inner.step(self.random.choice((None, 5, b"bytes")))  # type: ignore[arg-type]
        with self.ledger.refusal("seed that is no number", gym.error.Error):
            self.inner.reset(seed="one")  # type: ignore[arg-type]

    def _own_pid(self) -> int:
        return local.pid_of(self.inner._worker)

    def fault_environment_killed(self) -> None:
        if self.over:
            self.begin()
        kill({self._own_pid()})
        ensure(self._step() is not None, "a dead environment gave a reward")

    def fault_environment_killed_in_a_step(self) -> None:
        if self.over:
            self.begin()
        pid = self._own_pid()
        with self.ledger.soon(self.random.random() * 0.003, lambda: kill({pid})):
            for _ in range(20):
                if self._step() is not None or self.over:
                    break
        self.over = True

    def fault_guest_killed(self) -> None:
        if self.over:
            self.begin()
        own = self._own_pid()
        status = Path(f"/proc/{own}/stat").read_text()
        kill({int(status.rpartition(")")[2].split()[1])})
        ensure(not wait_gone({own}), "an environment outlived its guest")
        ensure(self._step() is not None, "a dead guest gave a reward")

    def fault_environments_sandbox_killed(self) -> None:
        if self.over:
            self.begin()
        sandbox = self.inner.sandbox
        assert sandbox is not None
        kill(members(sandbox))
        ensure(self._step() is not None, "a dead sandbox gave a reward")

    def check_recovery(self) -> None:
        self.begin()
        self.step()

    def close(self) -> None:
        self.env.close()
        self.pool.close()


class Trainer(Actor):
    """Plays a vector: whatever breaks ends the rows that it must, and never looks like a reward."""

    ROWS = 6

    def __init__(
        self, backend: str, seed: int, ledger: Ledger, truth: dict[int, list[Turn]]
    ) -> None:
        super().__init__(backend, seed, ledger)
        self.truth = truth
        self.pool = pool_for(backend)
        self.inner = SandboxVectorEnv(
            gem_id=GEM_ID, num_envs=self.ROWS, pool=self.pool, envs_per_sandbox=3
        )
        self.envs = VectorChaos(self.inner, seed=seed, step_rate=0.01)
        self.begin()

    def actions(self) -> dict[Callable[[], None], int]:
        return {
            self.step: 40,
            self.begin: 2,
            self.nonsense: 2,
            self.fault_row_killed: 2,
            self.fault_rows_killed_in_a_step: 2,
            self.fault_rows_sandbox_killed: 1,
        }

    def begin(self) -> None:
        self.first = self.random.randrange(len(SEEDS) - self.ROWS + 1)
        obs, infos = self.envs.reset(seed=self.first)
        ensure("fault" not in infos, f"a reset failed by itself: {infos}")
        self.turns = [0] * self.ROWS
        self.true = [True] * self.ROWS  # whether a row still plays the episode of its seed
        for row in range(self.ROWS):
            ensure(obs[row] == self.truth[self.first + row][0][0], f"row {row} began otherwise")

    def _moves(self) -> list[str]:
        return [move(self.first + row, self.turns[row]) for row in range(self.ROWS)]

    def _look(self, batch: Any) -> set[int]:
        """Check a batch, and return the rows that faults have ended."""
        obs, rewards, terminated, truncated, infos = batch
        failed = {row for row, hit in enumerate(infos.get("_fault", ())) if hit}
        for row in range(self.ROWS):
            if row in failed:
                kind = infos["fault"][row]
                told = (float(rewards[row]), bool(terminated[row]), bool(truncated[row]))
                ensure(told == (0.0, False, True), f"row {row}: {kind} looked like {told}")
                self.ledger.add(self.ledger.errors, str(kind))
                self.true[row] = False
            elif self.true[row]:
                self.turns[row] += 1
                episode = self.truth[self.first + row]
                ends = bool(terminated[row]), bool(truncated[row])
                told_turn = (obs[row], float(rewards[row]), *ends)
                true = episode[self.turns[row]]
                ensure(told_turn == true, f"row {row}: {told_turn}, truly {true}")
                self.true[row] = not any(ends)
        return failed

    def _made_up(self) -> int:
        return sum(self.envs.faults.values())

    def step(self) -> None:
        before = self._made_up()
        failed = self._look(self.envs.step(self._moves()))
        made_up = self._made_up() - before
        self.ledger.add(self.ledger.faults, "made up by VectorChaos", made_up)
        self.ledger.add(self.ledger.survived, "made up by VectorChaos", made_up)
        ensure(len(failed) == made_up, f"rows {sorted(failed)} failed, {made_up} were made up")

    def nonsense(self) -> None:
        with self.ledger.refusal("too few actions", SpecError, ValueError):
            self.inner.step(["x"])

    def _pid(self, row: int) -> int:
        player: Any = self.inner._players[row]
        return local.pid_of(player._worker)

    def fault_row_killed(self) -> None:
        self.begin()
        rows = set(self.random.sample(range(self.ROWS), self.random.randint(1, 3)))
        kill({self._pid(row) for row in rows})
        failed = self._look(self.inner.step(self._moves()))
        ensure(failed == rows, f"rows {sorted(rows)} were killed, {sorted(failed)} failed")

    def fault_rows_killed_in_a_step(self) -> None:
        self.begin()
        rows = set(self.random.sample(range(self.ROWS), 2))
        pids = {self._pid(row) for row in rows}
        with self.ledger.soon(self.random.random() * 0.003, lambda: kill(pids)):
            failed = self._look(self.inner.step(self._moves()))
        ensure(failed <= rows, f"rows {sorted(rows)} were killed, {sorted(failed)} failed")

    def fault_rows_sandbox_killed(self) -> None:
        self.begin()
        sandboxes = self.inner.get_attr("sandbox")
        victim = self.random.choice(sandboxes)
        kill(members(victim))
        rows = {row for row, sandbox in enumerate(sandboxes) if sandbox is victim}
        failed = self._look(self.inner.step(self._moves()))
        ensure(failed == rows, f"rows {sorted(rows)} were lost, {sorted(failed)} failed")

    def check_recovery(self) -> None:
        """The rows go on by themselves; and a reset begins all of them anew."""
        self.inner.step(self._moves())
        self.begin()

    def close(self) -> None:
        self.envs.close()
        self.pool.close()
