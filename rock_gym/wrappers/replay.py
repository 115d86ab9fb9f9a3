"""Plays a recorded environment back, without GEM and without any sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import gymnasium as gym

from rock_gym.errors import CassetteError
from rock_gym.wrappers.cassette import Cassette
from rock_gym.wrappers.codec import decode, decode_space, encode, untyped
from rock_gym.wrappers.faults import error_of
from rock_gym.wrappers.replay_vector import VectorReplay

__all__ = ["Replay"]


class Replay(gym.Env[Any, Any]):
    """Gives what a cassette recorded, call by call; recorded faults are raised again.

    For tests and for finding faults in a trainer: it needs no sandbox, and takes no time.

    Of a cassette of a vector environment this makes a ``VectorReplay``.

    Args:
        path: The cassette.
        strict: Whether each call must be the recorded one, with the recorded action, and no other
            seed than the recorded one. Else whatever is done gives what was recorded next:
            ``reset`` the next episode, and ``step`` its next step.

    Raises:
        CassetteError: If it cannot be read.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 2}  # noqa: RUF012

    def __new__(cls, path: Any = None, *, strict: bool = True) -> Any:
        """Make a ``VectorReplay`` of a cassette of a vector environment."""
        if path is not None and Cassette(path).is_vector:
            return VectorReplay(path, strict=strict)
        return super().__new__(cls)

    def __init__(self, path: str | os.PathLike[str], *, strict: bool = True) -> None:
        self.cassette = Cassette(path)
        self.strict = strict
        self.observation_space = decode_space(self.cassette.header.get("observation_space"))
        self.action_space = decode_space(self.cassette.header.get("action_space"))
        self.render_mode = "ansi"
        self._lines: Iterator[tuple[int, dict[str, Any]]] = self.cassette.lines()
        self._next: tuple[int, dict[str, Any]] | None = next(self._lines, None)
        self._obs: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next recorded episode.

        Raises:
            CassetteError: If there is none, or it is strict and another seed or call was recorded.
            RockGymError: What was recorded as raised.
        """
        super().reset(seed=seed)
        while not self.strict and self._next is not None and self._next[1]["call"] != "reset":
            self._next = next(self._lines, None)
        line = self._take("reset")
        if self.strict and seed is not None and seed != line["seed"]:
            raise self._other(f"reset with the seed {line['seed']}", f"the seed {seed}")
        self._obs = self._give(line)
        return self._obs, decode(line["info"])

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Give the next recorded step; raises as ``reset``."""
        line = self._take("step")
        given, recorded = untyped(encode(action)), untyped(line["action"])
        if self.strict and given != recorded:
            raise self._other(f"the action {recorded!r}", f"the action {given!r}")
        self._obs = self._give(line)
        flags = line["terminated"], line["truncated"]
        return self._obs, decode(line["reward"]), *flags, decode(line["info"])

    def render(self) -> Any:
        """Return the last observation, as text."""
        return self._obs if isinstance(self._obs, str) else repr(self._obs)

    def _take(self, call: str) -> dict[str, Any]:
        if self._next is None:
            raise CassetteError(f"{self.cassette.path} is over: nothing more was recorded")
        self._number, line = self._next
        if line.get("call") != call:
            raise self._other(f"a {line.get('call')}", f"a {call}")
        self._next = next(self._lines, None)
        return line

    def _other(self, recorded: str, given: str) -> CassetteError:
        return self.cassette.mismatch(self._number, recorded, given, self.strict)

    def _give(self, line: dict[str, Any]) -> Any:
        if "fault" in line:
            raise error_of(line["fault"])
        return decode(line["obs"])
