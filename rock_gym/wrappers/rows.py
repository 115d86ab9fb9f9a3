"""Batches of a vector environment, taken apart into a row for each environment and put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Text
from gymnasium.vector.utils import iterate

__all__ = ["numbers_of", "split_batch", "split_infos"]

# What numbers become in merged infos; others, such as float32, stay what they are.
_OWN = (np.bool_, np.int64, np.float64)


def numbers_of(env_ids: Iterable[int] | None, count: int) -> list[int]:
    """Return which environments are meant, of so many; None is all."""
    return list(range(count)) if env_ids is None else [int(each) for each in env_ids]


def split_batch(space: gym.Space[Any], single: gym.Space[Any], batch: Any) -> list[Any]:
    """Return what a batch of observations or actions holds for each environment."""
    return list(batch) if isinstance(single, Text) else list(iterate(space, batch))


def split_infos(infos: dict[str, Any], count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return each environment's info, and what is of none: keys without a mask."""
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    rest: dict[str, Any] = {}
    _split(infos, rows, list(range(count)), rest)
    return rows, rest


def _split(
    infos: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    having: list[int],
    rest: dict[str, Any] | None,
) -> None:
    """Spread infos over rows; inside of a dict, keys without a mask are of all that have it."""
    for key, value in infos.items():
        if key[:1] == "_" and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        if mask is None and rest is not None:
            rest[key] = value
            continue
        numbers = having if mask is None else [number for number in having if mask[number]]
        if isinstance(value, dict):
            parts: list[dict[str, Any]] = [{} for _ in rows]
            _split(value, parts, numbers, None)
            for number in numbers:
                rows[number][key] = parts[number]
        else:
            for number in numbers:
                rows[number][key] = _own(value[number])


def _own(value: Any) -> Any:
    return value.item() if isinstance(value, _OWN) else value
