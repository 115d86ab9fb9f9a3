"""An interaction for multi-turn rollouts of verl.

::

    interaction:
      - name: rock-gym
        class_name: rock_gym.adapters.verl.GemInteraction
        config: {env_id: gem-game/GuessTheNumber-easy-v0}

A row's ``interaction_kwargs`` have the name, and the ``seed`` that says which episode it is. Its
prompt is the first observation, as ``rock_gym.adapters.first_observations`` reads it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

from verl.interactions.base import BaseInteraction

from rock_gym.adapters.episode import Episode

__all__ = ["GemInteraction"]

_FORGOTTEN_S = 3600.0


class GemInteraction(BaseInteraction):  # type: ignore[misc,unused-ignore]
    """Answers a model's messages with what an environment says to them.

    Args:
        config: ``env_id``, unless rows have it; ``options`` as ``GemEnv`` takes them; and
            ``forgotten_s``, after which an episode that nobody goes on with is closed: verl does
            not tell when it has reached its own limit of turns.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._options = dict(config.get("options") or {})
        self._forgotten_s = float(config.get("forgotten_s", _FORGOTTEN_S))
        self._episodes: dict[str, tuple[Episode, float]] = {}

    async def start_interaction(
        self, instance_id: str | None = None, seed: int | None = None, **kwargs: Any
    ) -> str:
        """Begin an episode."""
        instance_id = str(uuid4()) if instance_id is None else instance_id
        await self._close_forgotten()
        episode = Episode(kwargs.get("env_id") or self.config["env_id"], **self._options)
        try:
            await asyncio.to_thread(episode.reset, seed)
        except BaseException:
            episode.close()
            raise
        self._episodes[instance_id] = episode, time.monotonic()
        return instance_id

    async def generate_response(
        self, instance_id: str, messages: list[dict[str, Any]], **kwargs: Any
    ) -> tuple[bool, str, float, dict[str, Any]]:
        """Take a turn with the last message of the model.

        Returns:
            Whether the episode is over, what the model reads next, the reward, and the info.

        Raises:
            RockGymError: If a fault ended the episode, for which there is no reward.
        """
        episode, _ = self._episodes[instance_id]
        self._episodes[instance_id] = episode, time.monotonic()
        said = [each["content"] or "" for each in messages if each["role"] == "assistant"]
        try:
            turn = await asyncio.to_thread(episode.step, said[-1] if said else "")
        except BaseException:
            await self.finalize_interaction(instance_id)
            raise
        if turn.done:
            await self.finalize_interaction(instance_id)
        return turn.done, turn.observation, turn.reward, turn.info

    async def finalize_interaction(self, instance_id: str, **kwargs: Any) -> None:
        """Give up the sandbox. Twice is fine."""
        episode, _ = self._episodes.pop(instance_id, (None, 0.0))
        if episode is not None:
            await asyncio.to_thread(episode.close)

    async def _close_forgotten(self) -> None:
        before = time.monotonic() - self._forgotten_s
        for instance_id, (_, used_s) in list(self._episodes.items()):
            if used_s < before:
                await self.finalize_interaction(instance_id)
