"""Plays a recorded vector environment back, without any sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rock_gym.envs.vector_infos import merge_infos
from rock_gym.envs.vector_spaces import make_batcher
from rock_gym.errors import CassetteError
from rock_gym.wrappers.cassette import Cassette
from rock_gym.wrappers.codec import decode, decode_space, encode, untyped
from rock_gym.wrappers.faults import error_of
from rock_gym.wrappers.rows import numbers_of, split_batch

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["VectorReplay"]

Batch = tuple[Any, Any, Any, Any, dict[str, Any]]


class VectorReplay(VectorEnv[Any, Any, Any]):
    """Gives what a cassette of a vector environment recorded, call by call; ``Replay`` makes it.

    What was recorded by ``step`` is played back by ``step``, and what was received by parts is sent
    and received by parts, each batch as it was.

    Args:
        path: The cassette.
        strict: Whether each call must be the recorded one, with the recorded actions, and no other
            seed than the recorded one.

    Raises:
        CassetteError: If it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, strict: bool = True) -> None:
        self.cassette = Cassette(path)
        self.strict = strict
        self.num_envs = self.cassette.num_envs
        self.autoreset_mode = AutoresetMode(self.cassette.header.get("autoreset_mode"))
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = decode_space(self.cassette.header.get("observation_space"))
        self.single_action_space = decode_space(self.cassette.header.get("action_space"))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._batch = make_batcher(self.single_observation_space, True)
        self._lines: Iterator[tuple[int, dict[str, Any]]] = self.cassette.lines()
        self._number = 1
        self._obs: list[Any] = [None] * self.num_envs
        self._sent: dict[int, Any] = {}
        self._sent_all: Any = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Give the next recorded reset.

        Raises:
            CassetteError: If there is none, or it is strict and another seed or call was recorded.
            RockGymError: What was recorded as raised.
        """
        line = self._take("reset")
        if self.strict and seed is not None and encode(seed) != line["seed"]:
            raise self._other(f"the seed {line['seed']}", f"the seed {seed}")
        infos: list[dict[str, Any]] = [{}] * self.num_envs
        for row in line["rows"]:
            self._sent.pop(row["env"], None)
            self._obs[row["env"]] = decode(row["obs"])
            infos[row["env"]] = decode(row["info"])
        return self._batch(self._obs), {**merge_infos(infos), **decode(line.get("infos") or {})}

    def step(self, actions: Any) -> Batch:
        """Give the next recorded step; raises as ``reset``."""
        self.send(actions)
        return self._give("step")

    def send(self, actions: Any, env_ids: Sequence[int] | None = None) -> None:
        """Note what ``recv`` will have to have recorded."""
        given = split_batch(self.action_space, self.single_action_space, actions)
        self._sent.update(zip(numbers_of(env_ids, self.num_envs), given, strict=True))

    def send_reset(
        self,
        env_ids: Sequence[int] | None = None,
        seed: Any = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Note that a reset is under way."""
        for number in numbers_of(env_ids, self.num_envs):
            self._sent[number] = None

    def recv(self, min_envs: int | None = None, timeout: float | None = None) -> Batch:
        """Give the next recorded answers, whatever is asked for; raises as ``reset``."""
        if self.strict and not self._sent:
            raise gym.error.NoAsyncCallError("recv() without anything sent: send() first", "recv")
        return self._give("recv")

    def reset_async(self, seed: Any = None, options: dict[str, Any] | None = None) -> None:
        """Note that a reset is under way."""
        self._sent_all = seed

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Give the next recorded reset."""
        return self.reset(seed=self._sent_all)

    def step_async(self, actions: Any) -> None:
        """Note what ``step_wait`` will have to have recorded."""
        self.send(actions)

    def step_wait(self, timeout: float | None = None) -> Batch:
        """Give the next recorded step."""
        return self._give("step")

    def __enter__(self) -> VectorReplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Inside

    def _give(self, call: str) -> Batch:
        line = self._take(call)
        rows = line["rows"]
        for row in rows:
            self._check_sent(row)
            self._obs[row["env"]] = decode(row["obs"])
        infos = merge_infos([decode(row["info"]) for row in rows])
        infos.update(decode(line.get("infos") or {}))
        if call == "recv":
            infos["env_id"] = np.array([row["env"] for row in rows], dtype=np.int64)
            infos["_env_id"] = np.ones(len(rows), dtype=np.bool_)
        return (
            self._batch([self._obs[row["env"]] for row in rows]),
            np.array([decode(row["reward"]) for row in rows], dtype=np.float64),
            np.array([row["terminated"] for row in rows], dtype=np.bool_),
            np.array([row["truncated"] for row in rows], dtype=np.bool_),
            infos,
        )

    def _check_sent(self, row: dict[str, Any]) -> None:
        number = row["env"]
        missing = number not in self._sent
        sent, recorded = untyped(encode(self._sent.pop(number, None))), untyped(row.get("action"))
        if self.strict and missing:
            raise self._other(f"an answer of environment {number}", "something that was sent to it")
        if self.strict and not row.get("begins") and sent != recorded:
            raise self._other(f"the action {recorded!r} of environment {number}", repr(sent))

    def _take(self, call: str) -> dict[str, Any]:
        found = next(self._lines, None)
        if found is None:
            raise CassetteError(f"{self.cassette.path} is over: nothing more was recorded")
        self._number, line = found
        if line.get("call") != call:
            raise self._other(f"a {line.get('call')}", f"a {call}")
        if "fault" in line:
            raise error_of(line["fault"])
        return line

    def _other(self, recorded: str, given: str) -> CassetteError:
        return self.cassette.mismatch(self._number, recorded, given, self.strict)
