"""What an environment was made with, told so that it can be made again from a file.

Only ids that are registered here are made, and only from arguments that are plain values.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from rock_gym.envs.gem_env import GemEnv
from rock_gym.errors import CassetteError
from rock_gym.gem import catalog
from rock_gym.wrappers.codec import decode, encode

__all__ = ["describe", "describe_vector", "make_again"]

_GENERIC_ID = "rock/Gem-v0"
_PLAIN = (str, int, float, bool, type(None))


def describe(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return how to make an environment again, as JSON: its id, arguments and limit on steps.

    Arguments that are no JSON, such as a pool, are named as left out.
    """
    if env.spec is not None:
        return _describe_spec(env.spec)
    bare = env.unwrapped
    if isinstance(bare, GemEnv):
        return _describe_gem(bare)
    return {"id": None, "is": repr(env)}


def describe_vector(env: VectorEnv[Any, Any, Any]) -> dict[str, Any]:
    """Return how to make each environment of a vector: the different ways, and who has which."""
    ways: list[dict[str, Any]] = []
    of: list[int] = []
    for way in _ways(env.unwrapped):
        if way not in ways:
            ways.append(way)
        of.append(ways.index(way))
    return {"ways": ways, "of": of}


def make_again(way: dict[str, Any], overrides: dict[str, Any]) -> gym.Env[Any, Any]:
    """Make an environment as it was made when it was described.

    Args:
        way: What ``describe`` returned.
        overrides: Arguments that take the place of those recorded.

    Raises:
        CassetteError: If that cannot be done.
    """
    env_id = way.get("id")
    if not isinstance(env_id, str):
        raise CassetteError(
            f"nothing says how to make {way.get('is')} again: it was made without an id. "
            "Give the environment to rock_gym.wrappers.rerun by make="
        )
    if way.get("wrappers"):
        raise CassetteError(
            f"it was recorded around {', '.join(way['wrappers'])}: record the environment inside "
            "of them, or give one like it to rock_gym.wrappers.rerun by make="
        )
    # Gymnasium would import a module that an id names before a colon: a file may not do that.
    if env_id not in gym.registry:
        raise CassetteError(f"no environment {env_id!r} is registered: import what registers it")
    limit = way.get("max_episode_steps")
    limits = {} if limit is None else {"max_episode_steps": limit}
    return gym.make(env_id, **{**decode(way.get("kwargs") or {}), **overrides}, **limits)


def _ways(bare: VectorEnv[Any, Any, Any]) -> Sequence[dict[str, Any]]:
    envs = getattr(bare, "envs", None)
    if envs is not None:
        return [describe(each) for each in envs]
    ask = getattr(bare, "get_attr", None)
    specs = [None] * bare.num_envs if ask is None else ask("spec")
    unknown = {"id": None, "is": repr(bare)}
    return [unknown if spec is None else _describe_spec(spec) for spec in specs]


def _describe_spec(spec: EnvSpec) -> dict[str, Any]:
    way = {"id": spec.id, **_arguments(spec.kwargs)}
    if spec.max_episode_steps is not None:
        way["max_episode_steps"] = spec.max_episode_steps
    if spec.additional_wrappers:
        way["wrappers"] = [wrapper.name for wrapper in spec.additional_wrappers]
    return way


def _describe_gem(env: GemEnv) -> dict[str, Any]:
    defaults = inspect.signature(GemEnv).parameters
    given = {
        name: value
        for name, value in env._ezpickle_kwargs.items()
        if name not in defaults or value != defaults[name].default
    }
    record = catalog.find(env.gem_id)
    return {"id": _GENERIC_ID if record is None else record.gym_id, **_arguments(given)}


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    left_out = []
    for name, value in given.items():
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if _is_plain(value):
            kept[name] = encode(value)
        elif value is not None:
            left_out.append(name)
    return {"kwargs": kept, "left_out": left_out} if left_out else {"kwargs": kept}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
