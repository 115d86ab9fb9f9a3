"""Plays a vector environment and writes down, for each of its environments, what it alone saw."""

from __future__ import annotations

import random
import select
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rock_gym import GemEnv
from rock_gym.envs import SandboxVectorEnv

Events = list[tuple[Any, ...]]
Policy = Callable[[int, int], str]


def tiles(number: int, turn: int) -> str:
    """A move of 2048."""
    return f"\\boxed{{{random.Random(f'{number} {turn}').choice(['up', 'down', 'left', 'right'])}}}"


def mines(number: int, turn: int) -> str:
    """A move of Minesweeper."""
    drawn = random.Random(f"{number} {turn}")
    return f"\\boxed{{reveal {drawn.randrange(5)} {drawn.randrange(5)}}}"


def info_of(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """One environment's info, taken out of the merged ones."""
    found: dict[str, Any] = {}
    for key, value in infos.items():
        if f"_{key}" in infos and infos[f"_{key}"][row]:
            if isinstance(value, dict):
                found[key] = info_of(value, row)
            else:
                found[key] = value[row].item() if isinstance(value[row], np.generic) else value[row]
    return found


def play_alone(
    gem_id: str, number: int, policy: Policy, seed: int, turns: int, pool: Any
) -> Events:
    """What a single environment gives."""
    env = GemEnv(gem_id, pool=pool)
    events: Events = [("reset", *env.reset(seed=seed))]
    for turn in range(turns):
        step = env.step(policy(number, turn))
        events.append(("step", *step))
        if step[2] or step[3]:
            events.append(("reset", *env.reset()))
    env.close()
    return events


class Play:
    """Plays each environment for so many turns, and keeps what happened to it."""

    def __init__(self, envs: SandboxVectorEnv, policy: Policy, turns: int) -> None:
        self.envs, self.policy, self.turns = envs, policy, turns
        self.events: list[Events] = [[] for _ in range(envs.num_envs)]
        self.taken = [0] * envs.num_envs
        self.over = [False] * envs.num_envs
        self.mode = envs.autoreset_mode.value

    def begin(self, seed: int) -> None:
        obs, infos = self.envs.reset(seed=seed)
        for number in range(self.envs.num_envs):
            self.events[number].append(("reset", obs[number], info_of(infos, number)))

    def actions(self, numbers: Sequence[int]) -> list[str]:
        return [self.policy(number, self.taken[number]) for number in numbers]

    def note(self, batch: Any, numbers: Sequence[int]) -> None:
        """Write down a row for each of the numbers."""
        obs, rewards, terminated, truncated, infos = batch
        for row, number in enumerate(numbers):
            info = info_of(infos, row)
            info.pop("env_id", None)
            if self.mode == "NextStep" and self.over[number]:
                assert (rewards[row], terminated[row], truncated[row]) == (0, False, False)
                self.events[number].append(("reset", obs[row], info))
                self.over[number] = False
                continue
            flags = float(rewards[row]), bool(terminated[row]), bool(truncated[row])
            self.taken[number] += 1
            self.over[number] = flags[1] or flags[2]
            if self.mode == "SameStep" and self.over[number]:
                final = info.pop("final_obs"), *flags, info.pop("final_info")
                self.events[number] += [("step", *final), ("reset", obs[row], info)]
            else:
                self.events[number].append(("step", obs[row], *flags, info))

    def reset_finished(self) -> None:
        """What autoreset does not do when it is disabled."""
        mask = np.array(self.over)
        if self.mode == "Disabled" and mask.any():
            obs, infos = self.envs.reset(options={"reset_mask": mask})
            for number in np.flatnonzero(mask).tolist():
                self.events[number].append(("reset", obs[number], info_of(infos, number)))
                self.over[number] = False

    def lockstep(self) -> None:
        everybody = range(self.envs.num_envs)
        while min(self.taken) < self.turns:
            self.note(self.envs.step(self.actions(everybody)), everybody)
            self.reset_finished()

    def by_descriptor(self) -> None:
        """As lockstep, for who looks after the vector when its descriptor says so."""
        everybody = range(self.envs.num_envs)
        while min(self.taken) < self.turns:
            turn = self.envs.begin_step(self.actions(everybody))
            while not turn.is_there():
                select.select([self.envs], [], [])
                self.envs.take_in()
            self.note(turn.take(), everybody)
            self.reset_finished()

    def by_parts(self, several: int) -> None:
        self.envs.send(self.actions(range(self.envs.num_envs)))
        while True:
            batch = self.envs.recv(min_envs=several)
            numbers = batch[-1]["env_id"].tolist()
            self.note(batch, numbers)
            self.reset_finished()
            again = [number for number in numbers if self.taken[number] < self.turns]
            self.envs.send(self.actions(again), again)
            if min(self.taken) >= self.turns:
                return

    def same(self, number: int, alone: Events) -> bool:
        """Whether an environment saw what it would have seen alone."""
        seen = self.events[number]
        length = min(len(seen), len(alone))
        return length > self.turns and seen[:length] == alone[:length]
