"""Environments for ``GRPOTrainer(environment_factory=...)`` of TRL.

::

    from rock_gym.adapters.trl import environment_factory

    trainer = GRPOTrainer(
        train_dataset=Dataset.from_list([{"prompt": [...], "seed": seed} for seed in range(1000)]),
        environment_factory=environment_factory("gem-game/Sokoban-easy-v0"),
        ...
    )

A row's ``seed`` says which episode it is, so that all generations of a prompt play the same one.
Its first observation goes behind the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rock_gym.adapters.episode import Episode
from rock_gym.errors import RockGymError

__all__ = ["Environment", "environment_factory"]


def environment_factory(env_id: str, **options: Any) -> Callable[[], Environment]:
    """Return what makes environments without an argument, as the trainer wants it.

    Args:
        env_id: An id of gymnasium's or of GEM's.
        **options: As ``GemEnv`` takes them.
    """
    return lambda: Environment(env_id, options)


class Environment:
    """An environment whose public method ``act`` is a tool of the model."""

    # Whatever else is public would be a tool, too. The trainer closes nothing, but drops it.

    def __init__(self, env_id: str, options: dict[str, Any]) -> None:
        self._episode = Episode(env_id, **options)
        self._fault: RockGymError | None = None

    def reset(self, seed: int | None = None, **row: Any) -> str:
        """Begin an episode; returns what the agent reads first."""
        self._fault = None
        return self._episode.reset(seed)[0]

    def act(self, action: str) -> str:
        """Take one turn in the environment, and read what comes of it.

        Args:
            action: Your whole move, written just as the rules ask for it.

        Returns:
            What you observe next.
        """
        if self._fault is not None:
            raise self._fault
        if self._episode.done:
            return "The episode is over."
        try:
            turn = self._episode.step(action)
        except RockGymError as error:
            self._fault = error
            raise
        return f"{turn.observation}\nThe episode is over." if turn.done else turn.observation

    def get_reward(self) -> float:
        """Return the sum of the rewards.

        Raises:
            RockGymError: If the episode ended by a fault, for which there is no reward.
        """
        if self._fault is not None:
            raise self._fault
        return self._episode.total
