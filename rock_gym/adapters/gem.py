"""GEM's environments in sandboxes behind GEM's own face, for code that calls ``gem.make``.

::

    from rock_gym.adapters.gem import register

    register("game:Sokoban-v0-easy")                # or none, for all
    env = gem.make("rock:game:Sokoban-v0-easy")     # as ROLL, Oat and GEM's own trainers do

Observations, and what stands before and behind them in the info, are as GEM gives them. A seed
means the same episode as in a process of its own.
"""

from __future__ import annotations

from typing import Any

import gem
from gem.envs.registration import ENV_REGISTRY

from rock_gym.adapters.episode import Episode
from rock_gym.gem import catalog

__all__ = ["SandboxedEnv", "register"]

PREFIX = "rock:"


class SandboxedEnv(gem.Env):  # type: ignore[misc,unused-ignore]
    """A GEM environment whose game runs in a sandbox.

    A fault of the machinery that cannot be played over is an error of ``rock_gym.errors``.

    Args:
        gem_id: GEM's id.
        seed: What ``gem.make_vec`` gives; ``reset`` decides.
        **options: As ``GemEnv`` takes them.

    Attributes:
        max_turns: After how many turns GEM ends the episode, where its id says so.
    """

    def __init__(self, gem_id: str, seed: int | None = None, **options: Any) -> None:
        super().__init__()
        self._made_with = {"gem_id": gem_id, **options}
        self._episode = Episode(gem_id, observation="raw", **options)
        spec = ENV_REGISTRY.get(gem_id)
        self.max_turns = None if spec is None else spec.kwargs.get("max_turns")

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode."""
        return self._episode.reset(seed)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take a turn."""
        turn = self._episode.step(action)
        return turn.observation, turn.reward, turn.terminated, turn.truncated, turn.info

    def sample_random_action(self) -> str:
        """Draw a legal-looking move."""
        return str(self._episode.env.unwrapped.sample_random_action())  # type: ignore[attr-defined]

    def spawn(self, same_state: bool = False, **kwargs: Any) -> SandboxedEnv:
        """Make another one, at the beginning or, with ``same_state``, where this one is."""
        other = SandboxedEnv(**{**self._made_with, **kwargs})
        if same_state:
            other._episode.follow(self._episode)
        return other

    def close(self) -> None:
        """Give up the sandbox. Twice is fine."""
        self._episode.close()


def register(*gem_ids: str, prefix: str = PREFIX, **options: Any) -> None:
    """Register environments with GEM under another id. Twice is fine.

    Args:
        *gem_ids: GEM's ids; none for all of them.
        prefix: What stands before them.
        **options: As ``GemEnv`` takes them.
    """
    for gem_id in gem_ids or tuple(record.gem_id for record in catalog.RECORDS):
        if f"{prefix}{gem_id}" not in ENV_REGISTRY:
            gem.register(f"{prefix}{gem_id}", SandboxedEnv, gem_id=gem_id, **options)
