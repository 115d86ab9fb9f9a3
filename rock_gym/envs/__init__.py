"""GEM environments as gymnasium environments, and the spaces, moves and pictures they need.

The names are imported when they are first used: registering environments needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rock_gym.envs.actions import sample_action
    from rock_gym.envs.gem_env import EnvClosed, GemEnv, ResetNeeded
    from rock_gym.envs.spaces import ActionText, Unicode
    from rock_gym.envs.vector_env import EpisodeOver, SandboxVectorEnv

__all__ = [
    "ActionText",
    "EnvClosed",
    "EpisodeOver",
    "GemEnv",
    "ResetNeeded",
    "SandboxVectorEnv",
    "Unicode",
    "sample_action",
]

_HOMES = {
    "ActionText": "spaces",
    "EnvClosed": "gem_env",
    "EpisodeOver": "vector_env",
    "GemEnv": "gem_env",
    "ResetNeeded": "gem_env",
    "SandboxVectorEnv": "vector_env",
    "Unicode": "spaces",
    "sample_action": "actions",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
