"""An environment for SkyRL-Gym.

::

    skyrl_gym.register(id="rock-gym", entry_point="rock_gym.adapters.skyrl:GemTextEnv")

A row's ``env_class`` is that id; in its extras, ``env_id`` says which environment it is, ``seed``
which episode, and ``options`` are as ``GemEnv`` takes them. Its first observation goes behind the
prompt.
"""

from __future__ import annotations

from typing import Any

from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

from rock_gym.adapters.episode import Episode

__all__ = ["GemTextEnv"]


class GemTextEnv(BaseTextEnv):  # type: ignore[misc,unused-ignore]
    """An environment of text.

    Args:
        env_config: What all rows have in common.
        extras: What a row has of its own, which goes before.
    """

    def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
        super().__init__()
        given = {**dict(env_config or {}), **(extras or {})}
        if "max_turns" in given:
            self.max_turns = int(given["max_turns"])
        self._seed = given.get("seed")
        self._episode = Episode(given["env_id"], **dict(given.get("options") or {}))

    def init(self, prompt: list[dict[str, str]]) -> tuple[list[dict[str, str]], dict[str, Any]]:
        """Begin the episode; returns the conversation as the model is to read it, and the info."""
        observation, info = self._episode.reset(self._seed)
        return [*prompt, {"role": "user", "content": observation}], info

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Take a turn.

        Raises:
            RockGymError: If a fault ended the episode, for which there is no reward.
        """
        turn = self._episode.step(action)
        said = [] if turn.done else [{"role": "user", "content": turn.observation}]
        return BaseTextEnvStepOutput(
            observations=said, reward=turn.reward, done=turn.done, metadata=turn.info
        )

    def close(self) -> None:
        """Give up the sandbox. Twice is fine."""
        self._episode.close()
