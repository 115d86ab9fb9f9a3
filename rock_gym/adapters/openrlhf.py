"""An agent for OpenRLHF.

A file for ``--agent_func_path``::

    from rock_gym.adapters.openrlhf import executor

    AgentExecutor = executor("gem-game/GuessTheNumber-easy-v0")

A row's label is the seed, which says which episode it is, so that all samples of a prompt play the
same one; without labels each draws one. Its prompt goes before the first observation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import torch
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor

from rock_gym.adapters.episode import Episode

__all__ = ["chatml", "executor"]


def chatml(observation: str, done: bool) -> str:
    """Return what an environment says as a message in ChatML, and begin the model's unless done."""
    said = f"<|im_start|>user\n{observation}<|im_end|>\n"
    return said if done else f"{said}<|im_start|>assistant\n"


def executor(
    env_id: str, *, template: Callable[[str, bool], str] = chatml, **options: Any
) -> type[MultiTurnAgentExecutor]:
    """Return the class that OpenRLHF looks for by the name of ``AgentExecutor``.

    Args:
        env_id: An id of gymnasium's or of GEM's.
        template: What stands around an observation; is told whether it is the last.
        **options: As ``GemEnv`` takes them.
    """

    class Agent(AgentInstanceBase):  # type: ignore[misc,unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.episode = Episode(env_id, **options)

        async def reset(self, states: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
            observation, _ = await asyncio.to_thread(self.episode.reset, _seed(states["label"]))
            return {"observation": f"{states['observation']}{template(observation, False)}"}

        async def step(self, states: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
            try:
                turn = await asyncio.to_thread(self.episode.step, states["action_text"])
            except BaseException:
                self.episode.close()
                raise
            if turn.done:
                await asyncio.to_thread(self.episode.close)
            return {
                "rewards": torch.tensor(turn.reward),
                "scores": torch.tensor(self.episode.total),
                "environment_feedback": f"\n{template(turn.observation, turn.done)}",
                "done": turn.done,
                "sampling_params": states.get("sampling_params"),
                "extra_logs": {"turns": torch.tensor(float(self.episode.turns))},
            }

    class AgentExecutor(MultiTurnAgentExecutor):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__(Agent)

    return AgentExecutor


def _seed(label: Any) -> int | None:
    return None if label in (None, "") else int(label)
