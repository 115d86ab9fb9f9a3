"""Checks on what a vector environment is made with, and on what its calls are given."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray

from rock_gym.envs.arguments import check_count
from rock_gym.errors import SpecError

__all__ = [
    "check_mode",
    "check_steps",
    "pick_actions",
    "pick_ids",
    "pick_numbers",
    "split_options",
    "spread_seed",
]


def check_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Return an autoreset mode from itself, its value (``"SameStep"``) or snake case.

    Raises:
        SpecError: If there is no such mode.
    """
    if isinstance(mode, AutoresetMode):
        return mode
    for known in AutoresetMode:
        if isinstance(mode, str) and mode.lower() in (known.value.lower(), known.name.lower()):
            return known
    raise SpecError(
        f"autoreset_mode must be one of {[known.value for known in AutoresetMode]}, not {mode!r}"
    )


def check_steps(limit: int | None) -> int | None:
    """Return the most steps of an episode; None and gymnasium's -1 mean no limit.

    Raises:
        SpecError: If it is not a number.
    """
    return None if limit is None or limit == -1 else check_count("max_episode_steps", limit)


def pick_ids(
    gem_id: str | None, gem_ids: Sequence[str] | None, num_envs: int | None, group_size: int
) -> tuple[str, ...]:
    """Return the GEM id of each environment.

    Args:
        gem_id: One for all.
        gem_ids: One for each, or one for each group.
        num_envs: How many environments. None and 1, gymnasium's default, mean as many as
            ``gem_ids`` says.
        group_size: How many make a group.

    Raises:
        SpecError: If they contradict each other.
    """
    count = 1 if num_envs is None else check_count("num_envs", num_envs)
    if gem_ids is None:
        if gem_id is None:
            raise SpecError("give gem_id=, gem_ids= or env_fns=: there is nothing to play")
        found: tuple[str, ...] = (gem_id,) * count
    else:
        if isinstance(gem_ids, str):
            raise SpecError(f"gem_ids must be a list of ids: write [{gem_ids!r}]")
        found = tuple(gem_ids)
        if not found:
            raise SpecError("gem_ids is empty: there is nothing to play")
        if count in (1, len(found) * group_size) and count != len(found):
            found = tuple(name for name in found for _ in range(group_size))
        elif count != len(found):
            raise SpecError(f"{len(found)} gem_ids for {count} environments: give as many")
    if len(found) % group_size:
        raise SpecError(f"group_size={group_size} does not divide {len(found)} environments")
    return found


def spread_seed(
    seed: int | Sequence[int | None] | None, num_envs: int, group_size: int
) -> list[int | None]:
    """Return each environment's seed: ``seed + i``, or ``seed + g`` for the ``g``-th group.

    Raises:
        ValueError: If a list has not one for each.
    """
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, (int, np.integer)):
        first = operator.index(seed)
        return [first + number // group_size for number in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(
            f"a list of seeds must have one for each of {num_envs} environments, not {len(seed)}"
        )
    return list(seed)


def split_options(
    options: dict[str, Any] | None, num_envs: int
) -> tuple[NDArray[np.bool_] | None, dict[str, Any] | None]:
    """Return the reset mask, if there is one, and the options without it. Theirs is not changed.

    Raises:
        TypeError: If the mask is not an array of bool.
        ValueError: If it has another shape than one for each environment, or is all False.
    """
    if options is None or "reset_mask" not in options:
        return None, options
    mask = options["reset_mask"]
    rest = {key: value for key, value in options.items() if key != "reset_mask"}
    name = "options['reset_mask']"
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, not {type(mask).__name__}")
    if mask.shape != (num_envs,):
        raise ValueError(f"{name} must have the shape ({num_envs},), not {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"{name} must be of dtype bool, not {mask.dtype}")
    if not mask.any():
        raise ValueError(f"{name} must be True for at least one environment")
    return mask, rest


def pick_numbers(env_ids: Sequence[int] | None, num_envs: int) -> Sequence[int]:
    """Return the numbers of the environments that are meant; None means all.

    Raises:
        SpecError: If there is no such environment, or one is named twice.
    """
    if env_ids is None:
        return range(num_envs)
    numbers = [int(number) for number in env_ids]
    if len(set(numbers)) < len(numbers) or not all(0 <= n < num_envs for n in numbers):
        raise SpecError(
            f"env_ids must be different numbers from 0 to {num_envs - 1}, not {numbers}"
        )
    return numbers


def pick_actions(actions: Any, space: gym.Space[Any] | None, count: int) -> list[Any]:
    """Return the action of each environment.

    Args:
        actions: What was given for all of them.
        space: What batches of actions are of; None for texts, which need no taking apart.
        count: How many environments are meant.

    Raises:
        SpecError: If there are not as many, or a text is none.
    """
    given = list(actions) if space is None else list(iterate(space, actions))
    if len(given) != count:
        raise SpecError(f"{len(given)} actions for {count} environments: give as many")
    if space is None and not all(isinstance(action, str) for action in given):
        raise SpecError("actions must be strings: give the model's whole answers")
    return given
