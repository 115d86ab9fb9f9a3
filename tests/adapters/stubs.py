"""What adapters see of their trainers: base classes with the signatures that these have.

The trainers themselves need CUDA or a cluster. Where one of them loops, the loop here does what it
does between model and environment, and nothing else.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypedDict

import numpy as np
import pytest


class BaseInteraction:
    """verl 0.6: ``verl.interactions.base``."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.name: str = config.get("name", "interaction_agent")

    async def start_interaction(self, instance_id: str | None = None, **kwargs: Any) -> str:
        raise NotImplementedError

    async def generate_response(
        self, instance_id: str, messages: list[dict[str, Any]], **kwargs: Any
    ) -> tuple[bool, str, float, dict[str, Any]]:
        raise NotImplementedError

    async def finalize_interaction(self) -> None:
        raise NotImplementedError


class BaseTextEnvStepOutput(TypedDict):
    """SkyRL-Gym: ``skyrl_gym.envs.base_text_env``."""

    observations: list[dict[str, str]]
    reward: float
    done: bool
    metadata: dict[str, Any]


class BaseTextEnv:
    """The same."""

    def __init__(self) -> None:
        self.turns = 0
        self.max_turns = 1

    def init(self, prompt: list[dict[str, str]]) -> tuple[list[dict[str, str]], dict[str, Any]]:
        return prompt, {}

    def close(self) -> None:
        pass


class AgentInstanceBase(ABC):
    """OpenRLHF: ``openrlhf.utils.agent``."""

    @abstractmethod
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    async def reset(self, states: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return states

    @abstractmethod
    async def step(self, state_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]: ...


class MultiTurnAgentExecutor:
    """The same, with texts in the place of tokens."""

    def __init__(self, agent_instance_cls: type[AgentInstanceBase]) -> None:
        assert issubclass(agent_instance_cls, AgentInstanceBase)
        self.agent_instance_cls = agent_instance_cls

    async def execute(
        self, prompt: str, label: Any, generate: Callable[[str], str]
    ) -> dict[str, Any]:
        agent = self.agent_instance_cls()
        text = (await agent.reset({"observation": prompt, "label": label}))["observation"]
        total, done, result = 0.0, False, dict[str, Any]()
        while not done:
            action = generate(text)
            states = {"observation_text": text, "action_text": action, "label": label}
            result = await agent.step(states)
            total += result["rewards"].item()
            done = result["done"]
            text += action + result["environment_feedback"]
        return {"reward": total, "scores": result["scores"].item(), "text": text}


def tools_of(environment: Any) -> dict[str, Callable[..., str]]:
    """Return what TRL makes tools of: public methods that it has not reserved."""
    reserved = {"reset", "get_reward"}
    methods = inspect.getmembers(environment, inspect.ismethod)
    return {name: it for name, it in methods if not name.startswith("_") and name not in reserved}


MODULES: dict[str, dict[str, Any]] = {
    "verl.interactions.base": {"BaseInteraction": BaseInteraction},
    "skyrl_gym.envs.base_text_env": {
        "BaseTextEnv": BaseTextEnv,
        "BaseTextEnvStepOutput": BaseTextEnvStepOutput,
    },
    "openrlhf.utils.agent": {
        "AgentInstanceBase": AgentInstanceBase,
        "MultiTurnAgentExecutor": MultiTurnAgentExecutor,
    },
    "torch": {"tensor": np.array},
}


def install(patch: pytest.MonkeyPatch) -> None:
    """Have them found where adapters look for them."""
    for name, members in MODULES.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            if path not in sys.modules:
                patch.setitem(sys.modules, path, ModuleType(path))
        for member, value in members.items():
            patch.setattr(sys.modules[name], member, value, raising=False)
