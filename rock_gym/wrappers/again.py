"""Does again what a cassette recorded, and names the first step that differs.

Each environment is made by itself, also where a vector was recorded: what it gives depends on its
own seeds and actions alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.utils import seeding

from rock_gym.envs.vector_slots import UNUSABLE
from rock_gym.errors import CassetteError, RockGymError
from rock_gym.wrappers.cassette import Cassette
from rock_gym.wrappers.codec import decode, encode, untyped
from rock_gym.wrappers.describe import make_again
from rock_gym.wrappers.events import Event, read_events

__all__ = ["Difference", "Outcome", "rerun"]


@dataclass(frozen=True)
class Difference:
    """The first thing that was not as recorded.

    Attributes:
        line: The line of the cassette.
        env: The number of the environment, 0 if only one was recorded.
        episode: The number of its episode, from 1.
        step: The number of the step in it, from 1; 0 for its reset.
        what: ``"obs"``, ``"reward"``, ``"terminated"``, ``"truncated"``, ``"info"``, or
            ``"fault"`` where something was raised.
        recorded: What was recorded.
        found: What came now.
    """

    line: int
    env: int
    episode: int
    step: int
    what: str
    recorded: Any
    found: Any


@dataclass(frozen=True)
class Outcome:
    """What came of doing a recording again.

    Attributes:
        episodes: How many episodes were begun, up to the difference if there is one.
        steps: How many steps were taken.
        unchecked: How many recorded steps could not be taken again: those that ended by a fault
            of the machinery, and what followed such a fault without a seed.
        difference: The first difference, or None.
    """

    episodes: int
    steps: int
    unchecked: int
    difference: Difference | None


def rerun(
    path: str | os.PathLike[str],
    *,
    make: Callable[[int], gym.Env[Any, Any]] | None = None,
    **overrides: Any,
) -> Outcome:
    """Do again what a cassette recorded, up to the first difference.

    The environments are made by the ids and arguments that the cassette names: do so only for one
    that you trust as much as a program of whoever gave it to you.

    Args:
        path: The cassette.
        make: Makes the environment of this number, in the place of what was recorded.
        **overrides: Arguments of the environments in the place of those recorded: ``backend``, say.

    Raises:
        CassetteError: If it cannot be read, or nothing says how to make its environments.
        RockGymError: If its environments do not work here at all.
    """
    cassette = Cassette(path)
    make = make or (lambda number: make_again(_way(cassette, number), overrides))
    with _Again(make, cassette.is_vector) as again:
        for event in read_events(cassette):
            difference = again.follow(event)
            if difference is not None:
                break
        else:
            difference = None
    return Outcome(again.episodes, again.steps, again.unchecked, difference)


def _way(cassette: Cassette, number: int) -> dict[str, Any]:
    try:
        way = cassette.header["env"]
        if cassette.is_vector:
            way = way["ways"][way["of"][number]]
    except (IndexError, KeyError, TypeError) as error:
        raise CassetteError(f"{cassette.path} does not say what environment it is of") from error
    assert isinstance(way, dict)
    return way


class _Player:
    """One environment that does again what it did."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self.episode = self.step = 0
        self.lost = False  # which seed comes next is not known
        self.playing = False


class _Again(ExitStack):
    """All of them, and what they have done."""

    def __init__(self, make: Callable[[int], gym.Env[Any, Any]], has_limits: bool) -> None:
        super().__init__()
        self._has_limits = has_limits
        self._make = make
        self._players: dict[int, _Player] = {}
        self.episodes = self.steps = self.unchecked = 0

    def follow(self, event: Event) -> Difference | None:
        """Do again what was done, and compare what comes of it."""
        player = self._players.get(event.env)
        if player is None:
            env = self._make(event.env)
            self.callback(env.close)
            player = self._players[event.env] = _Player(env)
            _prepare(env, event)
        return self._begin(player, event) if event.begins else self._step(player, event)

    def _begin(self, player: _Player, event: Event) -> Difference | None:
        player.episode, player.step = player.episode + 1, 0
        player.lost = player.lost and event.seed is None
        player.playing = False
        if event.fault is not None:
            player.lost = True  # nothing says how often it was tried
        if player.lost:
            return None
        self.episodes += 1
        try:
            obs, info = player.env.reset(seed=event.seed, options=decode(event.options))
        except UNUSABLE:
            raise
        except RockGymError as error:
            return _difference(player, event, "fault", None, f"{type(error).__name__}: {error}")
        player.playing = True
        return _compare(player, event, {"obs": obs, "info": info})

    def _step(self, player: _Player, event: Event) -> Difference | None:
        player.step += 1
        if event.fault is not None:
            player.playing = False
        if not player.playing:
            self.unchecked += 1
            return None
        self.steps += 1
        try:
            obs, reward, terminated, truncated, info = player.env.step(decode(event.action))
        except RockGymError as error:
            return _difference(player, event, "fault", None, f"{type(error).__name__}: {error}")
        found = {"obs": obs, "reward": reward, "terminated": terminated, "info": info}
        # A vector's limit on steps is its own, and its environments know nothing of it.
        if truncated or not event.truncated or not self._has_limits:
            found["truncated"] = truncated
        if event.terminated or event.truncated:
            player.playing = False
        return _compare(player, event, found)


def _prepare(env: gym.Env[Any, Any], event: Event) -> None:
    """Have a first reset without a seed draw as it did."""
    if event.seed is None and event.rng is not None:
        env.unwrapped.np_random = seeding.np_random(event.rng)[0]


def _compare(player: _Player, event: Event, found: dict[str, Any]) -> Difference | None:
    for what in ("obs", "reward", "terminated", "truncated", "info"):
        if what in found:
            now, then = untyped(encode(found[what])), untyped(getattr(event, what))
            if now != then:
                return _difference(player, event, what, then, now)
    return None


def _difference(player: _Player, event: Event, what: str, recorded: Any, found: Any) -> Difference:
    return Difference(event.line, event.env, player.episode, player.step, what, recorded, found)
