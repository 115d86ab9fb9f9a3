"""Many infos as one: a dict of arrays, each with a mask, in which no value is changed.

gymnasium's own merging gives an array the type of the first value that it sees, which cuts 0.7 to
0 beside an int, makes 3 True beside a bool, and fails on the rest. Here all values of a key are
looked at first. Where they fit no common type the array is one of objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["merge_infos"]

_EXACT = 2**53


def merge_infos(infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge the infos of a batch, in order.

    Each key gives an array of one value per info, and ``_key`` a mask of those that have it. Dicts
    are merged in the same way. Should a key be spelt as the mask of another, its values move to the
    first free name that underscores behind it make: no value is lost, and masks are masks.
    """
    size = len(infos)
    present = _present(infos)
    merged: dict[str, Any] = {}
    for key, indices in present.items():
        name = key
        while name in merged or (name != key and name in present) or _is_mask(name, present):
            name += "_"
        merged[name] = _merge([infos[index][key] for index in indices], indices, size, key)
        if len(indices) == size:
            merged[f"_{name}"] = np.ones(size, dtype=np.bool_)
        else:
            merged[f"_{name}"] = mask = np.zeros(size, dtype=np.bool_)
            mask[indices] = True
    return merged


def _present(infos: Sequence[dict[str, Any]]) -> Mapping[str, Sequence[int]]:
    """Return which infos have a key, for each that any has, in the order they are met."""
    if infos:
        # In the common case all have all.
        keys = infos[0].keys()
        for info in infos:
            if info.keys() != keys:
                break
        else:
            return dict.fromkeys(keys, range(len(infos)))
    present: dict[str, list[int]] = {}
    for index, info in enumerate(infos):
        for key in info:
            if key in present:
                present[key].append(index)
            else:
                present[key] = [index]
    return present


def _is_mask(name: str, present: Mapping[str, Sequence[int]]) -> bool:
    return name[:1] == "_" and name[1:] in present


def _merge(values: list[Any], indices: Sequence[int], size: int, key: str) -> Any:
    kinds = set(map(type, values))
    if kinds == {str} and len(values) == size:
        array = np.empty(size, dtype=object)
        array[:] = values
        return array
    if key == "final_obs" or kinds == {str}:
        return _objects(values, indices, size)
    if all(issubclass(kind, dict) for kind in kinds):
        if len(values) == size:
            return merge_infos(values)
        padded: list[dict[str, Any]] = [{}] * size
        for index, value in zip(indices, values, strict=True):
            padded[index] = value
        return merge_infos(padded)
    if kinds == {bool}:
        return _filled(values, indices, size, np.dtype(np.bool_))
    if all(kind in (int, float) or issubclass(kind, np.number) for kind in kinds):
        return _numbers(values, indices, size)
    if kinds == {np.ndarray}:
        return _arrays(values, indices, size)
    return _objects(values, indices, size)


def _filled(
    values: list[Any],
    indices: Sequence[int],
    size: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...] = (),
) -> NDArray[Any]:
    if len(values) == size and not shape:
        return np.array(values, dtype=dtype)
    array = np.zeros((size, *shape), dtype=dtype)
    for index, value in zip(indices, values, strict=True):
        array[index] = value
    return array


def _objects(values: list[Any], indices: Sequence[int], size: int) -> NDArray[Any]:
    array = np.empty(size, dtype=object)
    for index, value in zip(indices, values, strict=True):
        array[index] = value
    return array


def _numbers(values: list[Any], indices: Sequence[int], size: int) -> NDArray[Any]:
    kinds = set(map(type, values))
    if kinds == {float}:
        return _filled(values, indices, size, np.dtype(np.float64))
    try:
        dtype = np.result_type(*(np.dtype(kind) for kind in kinds))
        array = _filled(values, indices, size, dtype)
    except (OverflowError, TypeError):  # more than 64 bits, or no common type
        return _objects(values, indices, size)
    if dtype.kind == "f" and any(_is_inexact(value) for value in values):
        return _objects(values, indices, size)
    return array


def _is_inexact(value: Any) -> bool:
    """Whether a whole number may be changed by becoming a float."""
    return isinstance(value, (int, np.integer)) and not -_EXACT <= value <= _EXACT


def _arrays(values: list[Any], indices: Sequence[int], size: int) -> NDArray[Any]:
    shape, dtype = values[0].shape, values[0].dtype
    if all(value.shape == shape and value.dtype == dtype for value in values):
        return _filled(values, indices, size, dtype, shape)
    return _objects(values, indices, size)
