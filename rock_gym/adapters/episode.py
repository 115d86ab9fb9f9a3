"""An episode that outlives a fault of the machinery, which is what all adapters play by."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import gymnasium as gym

from rock_gym.envs.misuse import ResetNeeded
from rock_gym.envs.vector_slots import UNUSABLE
from rock_gym.errors import RockGymError
from rock_gym.gem import catalog
from rock_gym.registration import make

__all__ = ["Episode", "Turn", "first_observations"]

_log = logging.getLogger("rock_gym")

_SEED_BITS = 31

T = TypeVar("T")


@dataclass(frozen=True)
class Turn:
    """What a turn gave.

    Attributes:
        observation: What the agent reads next.
        reward: The reward.
        terminated: Whether the episode has ended.
        truncated: Whether it was cut off.
        info: What else there is.
    """

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


class Episode:
    """One episode after another of an environment, each from a seed that is known.

    A seed and the actions so far say all there is to an episode. So when its sandbox is lost, say,
    another one is brought to where it was, and the turn is taken there. If that fails as well, or
    it does not read as it did before, the fault is raised. The next ``reset`` works.

    Args:
        env_id: An id of gymnasium's or of GEM's.
        again: How often a turn or a reset is tried again.
        **options: As ``GemEnv`` takes them.
    """

    def __init__(self, env_id: str, *, again: int = 1, **options: Any) -> None:
        self.env_id, self._again = env_id, again
        self._env = _make(env_id, options)
        self._seed = 0
        self._begun = ""
        self._over = True
        self._fault: RockGymError | None = None
        self._actions: list[str] = []
        self._turns: list[Turn] = []

    @property
    def env(self) -> gym.Env[str, str]:
        """The environment that is played at the moment."""
        return self._env

    @property
    def done(self) -> bool:
        """Whether no turn can be taken."""
        return self._over

    @property
    def total(self) -> float:
        """The sum of the rewards."""
        return sum(turn.reward for turn in self._turns)

    @property
    def turns(self) -> int:
        """How many turns have been taken."""
        return len(self._turns)

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Which one; None draws one.

        Returns:
            The first observation and its info.

        Raises:
            RockGymError: If it cannot be begun.
        """
        self._seed = secrets.randbits(_SEED_BITS) if seed is None else int(seed)
        self._over, self._fault = True, None
        self._actions, self._turns = [], []
        self._begun, info = self._persist(lambda: self._env.reset(seed=self._seed), self._again)
        self._over, self._fault = False, None
        return self._begun, info

    def step(self, action: str) -> Turn:
        """Take a turn.

        Raises:
            RockGymError: If it cannot be taken; the episode is over then and counts for nothing.
        """
        if self._over:
            raise ResetNeeded("no episode is under way: call reset first")
        self._over = True
        turn = self._persist(lambda: self._take(action), self._again)
        self._actions.append(action)
        self._turns.append(turn)
        self._over = turn.done
        return turn

    def follow(self, other: Episode) -> None:
        """Come to where another one of the same environment is.

        Raises:
            RockGymError: If that cannot be.
        """
        self.reset(other._seed)
        for action in other._actions:
            self.step(action)

    def close(self) -> None:
        """Give up the sandbox. Twice is fine."""
        self._over = True
        self._env.close()

    def __del__(self) -> None:
        # Trainers drop what they are done with without a word.
        env: gym.Env[str, str] | None = self.__dict__.get("_env")
        if env is not None:
            env.close()

    def _take(self, action: str) -> Turn:
        if self._fault is not None:
            self._catch_up(self._fault)
        return self._step(action)

    def _step(self, action: str) -> Turn:
        observation, reward, terminated, truncated, info = self._env.step(action)
        return Turn(observation, float(reward), terminated, truncated, info)

    def _catch_up(self, fault: RockGymError) -> None:
        """Bring a fresh sandbox to where the episode was."""
        observation, _ = self._env.reset(seed=self._seed)
        same = observation == self._begun
        for action, turn in zip(self._actions, self._turns, strict=True):
            same = same and self._step(action) == turn
        if not same:
            raise fault  # it does not repeat, so nobody can say where it would have gone
        self._fault = None

    def _persist(self, call: Callable[[], T], again: int) -> T:
        try:
            return call()
        except RockGymError as error:
            if again == 0 or isinstance(error, UNUSABLE):
                raise
            _log.warning("a fault is played over: %s", error)
            self._fault = error
        return self._persist(call, again - 1)


def first_observations(
    env_id: str, seeds: Iterable[int], **options: Any
) -> Iterator[tuple[int, str]]:
    """Read how episodes begin, for a trainer that wants its prompts in a data set.

    Args:
        env_id: An id of gymnasium's or of GEM's.
        seeds: Of the episodes.
        **options: As ``GemEnv`` takes them.

    Yields:
        Each seed and its first observation.
    """
    episode = Episode(env_id, **options)
    try:
        for seed in seeds:
            yield seed, episode.reset(seed)[0]
    finally:
        episode.close()


def _make(env_id: str, options: dict[str, Any]) -> gym.Env[str, str]:
    known = next((each.gem_id for each in catalog.RECORDS if each.gym_id == env_id), env_id)
    return make(known, disable_env_checker=True, **options)
