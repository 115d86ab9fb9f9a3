"""GEM environments for LLM agents as Gymnasium environments, each inside a sandbox.

Importing this package registers the environments, as strings: neither GEM nor any backend is
imported before it is used. ``gymnasium.make("gem-game/Sokoban-easy-v0")`` works from then on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rock_gym._version import __version__
from rock_gym.registration import make, register_all

if TYPE_CHECKING:
    from rock_gym.envs.gem_env import GemEnv
    from rock_gym.envs.misuse import EnvClosed, ResetNeeded
    from rock_gym.errors import (
        BackendUnavailable,
        CassetteError,
        CommandFailed,
        CommandTimeout,
        EnvError,
        EnvUnavailable,
        FileError,
        ImageError,
        ImageNotFound,
        PoolClosed,
        PoolExhausted,
        ResetTimeout,
        RockGymError,
        SandboxClosed,
        SandboxLost,
        SessionClosed,
        SpecError,
        StartFailed,
        StepTimeout,
        WireError,
    )
    from rock_gym.pool import SandboxPool
    from rock_gym.sandbox import Sandbox

__all__ = [
    "BackendUnavailable",
    "CassetteError",
    "CommandFailed",
    "CommandTimeout",
    "EnvClosed",
    "EnvError",
    "EnvUnavailable",
    "FileError",
    "GemEnv",
    "ImageError",
    "ImageNotFound",
    "PoolClosed",
    "PoolExhausted",
    "ResetNeeded",
    "ResetTimeout",
    "RockGymError",
    "Sandbox",
    "SandboxClosed",
    "SandboxLost",
    "SandboxPool",
    "SessionClosed",
    "SpecError",
    "StartFailed",
    "StepTimeout",
    "WireError",
    "__version__",
    "make",
]

# Where the names live that are imported when they are first used. The rest are errors.
_HOMES = {
    "EnvClosed": "envs.misuse",
    "GemEnv": "envs.gem_env",
    "ResetNeeded": "envs.misuse",
    "Sandbox": "sandbox",
    "SandboxPool": "pool",
}

register_all()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}")
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
