"""The spaces of a vector environment, and its batches of observations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Space, Text, Tuple
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import (
    batch_differing_spaces,
    batch_space,
    concatenate,
    create_empty_array,
)

__all__ = ["batch_actions", "batch_observations", "check_spaces", "make_batcher"]


def batch_observations(
    envs: Sequence[gym.Env[Any, Any]], mode: str | tuple[Space[Any], Space[Any]]
) -> tuple[Space[Any], Space[Any]]:
    """Return the batched and the single observation space.

    Args:
        envs: The environments.
        mode: As gymnasium's vectorizers have it: ``"same"``, ``"different"``, or both spaces.

    Raises:
        TypeError: If one of two is not a space.
        ValueError: If it is none of these.
    """
    if isinstance(mode, tuple) and len(mode) == 2:
        if not all(isinstance(space, Space) for space in mode):
            raise TypeError(
                f"observation_mode must be two spaces, not {type(mode[0])} and {type(mode[1])}"
            )
        return mode
    if mode == "same":
        single = envs[0].observation_space
        return batch_space(single, len(envs)), single
    if mode == "different":
        spaces = [env.observation_space for env in envs]
        return batch_differing_spaces(spaces), spaces[0]
    raise ValueError(
        "Invalid `observation_mode`, expected: 'same' or 'different' or tuple of single and batch "
        f"observation space, actual got {mode}"
    )


def batch_actions(envs: Sequence[gym.Env[Any, Any]]) -> Space[Any]:
    """Return the batched action space. Texts keep what makes each environment's moves."""
    spaces = [env.action_space for env in envs]
    if not isinstance(spaces[0], Text):
        return batch_space(spaces[0], len(envs))
    batched = Tuple([deepcopy(space) for space in spaces])
    # Copies would all draw the same, with the generator that was copied along.
    batched.seed(None)
    return batched


def check_spaces(
    envs: Sequence[gym.Env[Any, Any]],
    single_observation: Space[Any],
    single_action: Space[Any],
    same: bool,
) -> None:
    """Refuse environments whose spaces cannot be batched.

    Raises:
        RuntimeError: If there is one.
    """
    for number, env in enumerate(envs):
        space = env.observation_space
        if same and space != single_observation:
            raise RuntimeError(
                f"environment {number} observes {space}, and the first one {single_observation}: "
                "the sub-environments observation spaces are not equivalent. "
                "If this is intentional, use `observation_mode='different'` instead."
            )
        if not same and not is_space_dtype_shape_equiv(space, single_observation):
            raise RuntimeError(
                f"environment {number} observes {space}, which has another shape or dtype than "
                f"{single_observation}"
            )
        if env.action_space != single_action:
            raise RuntimeError(
                f"environment {number} takes {env.action_space}, and the first one {single_action}"
            )


def make_batcher(single: Space[Any], copy: bool) -> Callable[[list[Any]], Any]:
    """Return what makes one batch of a list of observations.

    Args:
        single: Their space.
        copy: Whether each batch is the caller's own, or is overwritten by the next.
    """
    if isinstance(single, Text):
        return tuple
    buffers: dict[int, Any] = {}

    def batch(observations: list[Any]) -> Any:
        count = len(observations)
        if count == 0:
            return create_empty_array(single, n=0, fn=np.zeros)
        if copy or count not in buffers:
            buffers[count] = create_empty_array(single, n=count, fn=np.zeros)
        batched = concatenate(single, observations, buffers[count])
        # Where a space has no arrays to copy into, the batch still holds the environment's own.
        return deepcopy(batched) if copy else batched

    return batch
