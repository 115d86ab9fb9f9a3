"""Records what an environment is asked and what it gives, into a cassette."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from rock_gym.errors import SpecError
from rock_gym.wrappers.cassette import Writer
from rock_gym.wrappers.codec import encode, encode_space
from rock_gym.wrappers.describe import describe
from rock_gym.wrappers.faults import fault_of
from rock_gym.wrappers.record_vector import VectorRecord

__all__ = ["Record"]


class Record(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Records an environment, or a vector of them, into a cassette.

    A cassette is a file of JSON lines: how the environment was made and by which versions, then
    each call with its seed or action, what came of it (observation, reward, flags and info, or the
    fault) and how long it took. A crash loses the last line at most. ``rock-gym replay FILE`` does
    it all again and names the first step that differs, and ``Replay`` plays it back.

    Around a vector environment this makes a ``VectorRecord``.

    Args:
        env: The environment. Wrappers inside of this one are not made again by ``replay``.
        path: The file, which must not be there yet.

    Raises:
        CassetteError: If the file is there already or cannot be written.
    """

    def __new__(cls, env: Any = None, path: Any = None) -> Any:
        """Make a ``VectorRecord`` for a vector environment."""
        if isinstance(env, VectorEnv):
            return VectorRecord(env, path)
        return super().__new__(cls)

    def __init__(self, env: gym.Env[Any, Any], path: str | os.PathLike[str]) -> None:
        RecordConstructorArgs.__init__(self, path=os.fspath(path))
        super().__init__(env)
        self._writer = Writer(
            path,
            {
                "kind": "env",
                "env": describe(env),
                "observation_space": encode_space(env.observation_space),
                "action_space": encode_space(env.action_space),
            },
        )

    @property
    def path(self) -> Path:
        """The cassette."""
        return self._writer.path

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, and record it; raises as the environment does."""
        asked = {"call": "reset", "seed": encode(seed)}
        if options:
            asked["options"] = encode(options)
        (obs, info), took_s = self._watch(
            asked, lambda: self.env.reset(seed=seed, options=options), self._generator
        )
        given = {"obs": encode(obs), "info": encode(info)}
        self._writer.write({**asked, **self._generator(), **given, "took_s": took_s})
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a turn, and record it; raises as the environment does."""
        asked = {"call": "step", "action": encode(action)}
        (obs, reward, terminated, truncated, info), took_s = self._watch(
            asked, lambda: self.env.step(action), dict
        )
        given = {
            "obs": encode(obs),
            "reward": encode(reward),
            "terminated": bool(terminated),
            "truncated": bool(truncated),
            "info": encode(info),
        }
        self._writer.write({**asked, **given, "took_s": took_s})
        return obs, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the environment and the cassette."""
        try:
            super().close()
        finally:
            self._writer.close()

    def _generator(self) -> dict[str, Any]:
        """What unseeded resets follow from: without it, only seeded ones could be made again."""
        return {"rng": encode(self.env.unwrapped.np_random_seed)}

    def _watch(
        self, asked: dict[str, Any], call: Callable[[], Any], more: Callable[[], dict[str, Any]]
    ) -> tuple[Any, float]:
        """Make a call and time it. What fails is recorded, unless it was against the rules."""
        begun_s = time.perf_counter()
        try:
            result = call()
        except (gym.error.Error, SpecError):
            raise
        except Exception as error:
            took_s = round(time.perf_counter() - begun_s, 6)
            self._writer.write({**asked, **more(), "fault": fault_of(error), "took_s": took_s})
            raise
        return result, round(time.perf_counter() - begun_s, 6)
