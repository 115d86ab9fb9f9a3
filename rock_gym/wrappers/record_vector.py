"""Records what a vector environment is asked and what it gives, into a cassette."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from rock_gym.envs.spaces import ActionText
from rock_gym.envs.vector_arguments import split_options
from rock_gym.errors import SpecError
from rock_gym.wrappers.cassette import Writer
from rock_gym.wrappers.codec import encode, encode_space
from rock_gym.wrappers.describe import describe_vector
from rock_gym.wrappers.faults import fault_of
from rock_gym.wrappers.rows import numbers_of, split_batch, split_infos

if TYPE_CHECKING:
    from types import TracebackType

    _Wrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    _Wrapper = VectorWrapper  # before gymnasium 1.4 it is not generic

__all__ = ["VectorRecord"]

Batch = tuple[Any, Any, Any, Any, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Sent:
    """What an environment was sent.

    Attributes:
        at_s: When.
        begins: Whether it begins an episode, in which case an action is ignored.
        action: The action, encoded.
        seed: The seed that a reset was given.
    """

    at_s: float
    begins: bool
    action: Any = None
    seed: int | None = None


class VectorRecord(_Wrapper):
    """Records a vector environment into a cassette; ``Record`` makes it.

    Each line is a call and holds a row for each environment that it brought an answer of. All that
    the environment has beside gymnasium's own methods is passed on: ``send``, ``recv``, ``call``.

    Args:
        env: The vector environment.
        path: The file, which must not be there yet.

    Raises:
        CassetteError: If the file is there already or cannot be written.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], path: str | os.PathLike[str]) -> None:
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._next_step = mode is AutoresetMode.NEXT_STEP
        self._over = [False] * env.num_envs
        self._sent: dict[int, _Sent] = {}
        self._begun: tuple[float, Any, Any] = (0.0, None, None)
        self._writer = Writer(
            path,
            {
                "kind": "vector",
                "env": describe_vector(env),
                "num_envs": env.num_envs,
                "autoreset_mode": mode.value,
                "observation_space": encode_space(env.single_observation_space),
                "action_space": encode_space(env.single_action_space),
            },
        )

    @property
    def path(self) -> Path:
        """The cassette."""
        return self._writer.path

    def __getattr__(self, name: str) -> Any:
        # The base class passes nothing on, and a vector of sandboxes has more to offer.
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.env, name)

    # All at once

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes, and record them; raises as the environment does."""
        given = None if options is None else dict(options)  # gymnasium takes the mask out of theirs
        begun_s = time.perf_counter()
        result: tuple[Any, dict[str, Any]] = self._watch(
            {"call": "reset", "seed": encode(seed)},
            begun_s,
            lambda: self.env.reset(seed=seed, options=options),
        )
        self._note_reset(result, seed, given, begun_s)
        return result

    def step(self, actions: Any) -> Batch:
        """Take a turn in every environment, and record it; raises as the environment does."""
        begun_s = time.perf_counter()
        given = self._encode_actions(actions)
        result: Batch = self._watch(
            {"call": "step", "actions": given}, begun_s, lambda: self.env.step(actions)
        )
        self._note_sent(range(self.num_envs), given, begun_s)
        self._note("step", range(self.num_envs), result, begun_s)
        return result

    # By parts

    def send(self, actions: Any, env_ids: Sequence[int] | None = None) -> None:
        """Begin a turn in some environments; recorded once it is received."""
        given = self._encode_actions(actions)
        self.env.send(actions, env_ids)  # type: ignore[attr-defined]
        self._note_sent(numbers_of(env_ids, self.num_envs), given)

    def send_reset(
        self,
        env_ids: Sequence[int] | None = None,
        seed: Any = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Begin an episode in some environments; recorded once it is received."""
        self.env.send_reset(env_ids, seed, options)  # type: ignore[attr-defined]
        now = time.perf_counter()
        seeds = self._seeds(seed)
        for number in numbers_of(env_ids, self.num_envs):
            self._sent[number] = _Sent(now, True, seed=seeds[number])

    def recv(self, min_envs: int | None = None, timeout: float | None = None) -> Batch:
        """Return what has come of what was sent, and record it; raises as the environment does."""
        begun_s = time.perf_counter()
        result: Batch = self._watch(
            {"call": "recv"},
            begun_s,
            lambda: self.env.recv(min_envs, timeout),  # type: ignore[attr-defined]
        )
        self._note("recv", result[4]["env_id"].tolist(), result, begun_s)
        return result

    # In halves

    def reset_async(self, seed: Any = None, options: dict[str, Any] | None = None) -> None:
        """Begin to reset all environments."""
        self.env.reset_async(seed, options)  # type: ignore[attr-defined]
        self._begun = time.perf_counter(), seed, options

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """Wait for ``reset_async``, and record what came of it."""
        begun_s, seed, options = self._begun
        result: tuple[Any, dict[str, Any]] = self._watch(
            {"call": "reset", "seed": encode(seed)},
            begun_s,
            lambda: self.env.reset_wait(timeout),  # type: ignore[attr-defined]
        )
        self._note_reset(result, seed, options, begun_s)
        return result

    def step_async(self, actions: Any) -> None:
        """Begin a turn in all environments."""
        given = self._encode_actions(actions)
        self.env.step_async(actions)  # type: ignore[attr-defined]
        self._note_sent(range(self.num_envs), given)
        self._begun = time.perf_counter(), None, None

    def step_wait(self, timeout: float | None = None) -> Batch:
        """Wait for ``step_async``, and record what came of it."""
        begun_s = self._begun[0]
        result: Batch = self._watch(
            {"call": "step"},
            begun_s,
            lambda: self.env.step_wait(timeout),  # type: ignore[attr-defined]
        )
        self._note("step", range(self.num_envs), result, begun_s)
        return result

    def __enter__(self) -> VectorRecord:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, **kwargs: Any) -> None:
        """Close the environments and the cassette."""
        try:
            super().close(**kwargs)
        finally:
            self._writer.close()

    # Inside

    @property
    def _has_moves(self) -> bool:
        """Whether it is of GEM's environments: then parts may be of any size, and nothing waits."""
        return isinstance(self.single_action_space, ActionText)

    def _encode_actions(self, actions: Any) -> list[Any]:
        given = split_batch(self.action_space, self.single_action_space, actions)
        return [encode(each) for each in given]

    def _seeds(self, seed: Any) -> list[int | None]:
        """Return the seed of each environment for a reset with ``seed``, which was sent."""
        if seed is None:
            return [None] * self.num_envs
        if not isinstance(seed, (int, np.integer)):
            return [None if each is None else int(each) for each in seed]
        if self._has_moves:  # groups share theirs
            return list(self._generators())
        return [int(seed) + number for number in range(self.num_envs)]

    def _generators(self) -> Sequence[int | None]:
        """Return what the unseeded resets of each environment follow from."""
        known = self.env.np_random_seed
        return known if isinstance(known, tuple) else [None] * self.num_envs

    def _note_sent(
        self, numbers: Iterable[int], actions: Sequence[Any], at_s: float | None = None
    ) -> None:
        now = time.perf_counter() if at_s is None else at_s
        for number, action in zip(numbers, actions, strict=True):
            begins = self._next_step and self._over[number]
            self._sent[number] = _Sent(now, begins, action)

    def _note_reset(
        self, result: Any, seed: Any, options: dict[str, Any] | None, begun_s: float
    ) -> None:
        obs, infos = result
        mask, options = split_options(options, self.num_envs)
        numbers = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        own, rest = split_infos(infos, self.num_envs)
        seen = split_batch(self.observation_space, self.single_observation_space, obs)
        # Where others may be at work, asking environments of other kinds would wait for them.
        known = self._generators() if mask is None or self._has_moves else [None] * self.num_envs
        seeds = self._seeds(seed)
        rows = []
        for number in numbers:
            self._sent.pop(number, None)
            self._over[number] = "fault" in own[number]
            row = {"env": number, "begins": True, "seed": seeds[number], "rng": known[number]}
            row |= {"obs": encode(seen[number]), "info": encode(own[number])}
            rows.append(row)
        line: dict[str, Any] = {"call": "reset", "seed": encode(seed)}
        if options:
            line["options"] = encode(options)
        self._write(line, rows, rest, begun_s)

    def _note(self, call: str, numbers: Sequence[int], batch: Batch, begun_s: float) -> None:
        obs, rewards, terminated, truncated, infos = batch
        own, rest = split_infos(infos, len(numbers))
        seen = split_batch(self.observation_space, self.single_observation_space, obs)
        known = self._generators() if call == "recv" and self._has_moves else None
        now = time.perf_counter()
        rows = []
        for index, number in enumerate(numbers):
            sent = self._sent.pop(number)
            self._over[number] = bool(terminated[index] or truncated[index])
            if sent.begins:
                self._over[number] |= "fault" in own[index]
            own[index].pop("env_id", None)
            row: dict[str, Any] = {"env": number}
            if sent.begins:
                rng = None if known is None else known[number]
                row |= {"begins": True, "seed": sent.seed, "rng": rng}
            if sent.action is not None:
                row["action"] = sent.action
            row |= {
                "obs": encode(seen[index]),
                "reward": encode(np.asarray(rewards[index]).item()),
                "terminated": bool(terminated[index]),
                "truncated": bool(truncated[index]),
                "info": encode(own[index]),
            }
            if call == "recv":
                row["took_s"] = round(now - sent.at_s, 6)
            rows.append(row)
        self._write({"call": call}, rows, rest, begun_s)

    def _write(
        self, line: dict[str, Any], rows: list[Any], rest: dict[str, Any], begun_s: float
    ) -> None:
        took_s = round(time.perf_counter() - begun_s, 6)
        more = {"infos": encode(rest)} if rest else {}
        self._writer.write({**line, "took_s": took_s, "rows": rows, **more})

    def _watch(self, asked: dict[str, Any], begun_s: float, call: Callable[[], Any]) -> Any:
        """Make a call. What fails is recorded, unless the call was against the rules."""
        try:
            return call()
        except (gym.error.Error, SpecError, multiprocessing.TimeoutError):
            raise
        except Exception as error:
            took_s = round(time.perf_counter() - begun_s, 6)
            self._writer.write({**asked, "fault": fault_of(error), "took_s": took_s})
            raise
