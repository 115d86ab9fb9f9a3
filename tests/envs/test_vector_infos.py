"""Merging infos loses nothing, and where gymnasium's own merging works the result is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import VectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from rock_gym.envs.vector_infos import merge_infos


def theirs(infos: list[dict[str, Any]]) -> dict[str, Any]:
    envs: VectorEnv[Any, Any, Any] = VectorEnv()
    envs.num_envs = len(infos)
    merged: dict[str, Any] = {}
    for number, info in enumerate(infos):
        merged = envs._add_info(merged, info, number)
    return merged


@pytest.mark.parametrize(
    "infos",
    [
        [{}, {}],
        [{"a": 1}, {"a": 2}],
        [{"a": 1}, {}],
        [{"a": 0.5}, {"a": 2.0}],
        [{"a": True}, {"a": False}],
        [{"a": "x"}, {"a": "y"}, {}],
        [{"a": np.float32(1)}, {"a": np.float32(2)}],
        [{"a": np.array([1, 2])}, {"a": np.array([3, 4])}],
        [{"a": {"b": 1, "c": {"d": "x"}}}, {"a": {"b": 2}}],
        [{}, {"a": {}}],
        [{"a": [1, 2]}, {"a": [3]}],
        [{"a": None}, {"a": "x"}],
        [{"final_obs": np.array([1.0]), "final_info": {"a": 1}}, {}],
    ],
)
def test_infos_of_one_kind_are_merged_as_by_gymnasium(infos: list[dict[str, Any]]) -> None:
    ours, reference = merge_infos(infos), theirs(infos)
    assert data_equivalence(ours, reference)
    for key, value in reference.items():
        assert isinstance(value, dict) or ours[key].dtype == value.dtype


@pytest.mark.parametrize(
    "values",
    [
        [1, 0.7],
        [0.7, 1],
        [True, 3],
        [3, True],
        [1, None],
        [1, "x"],
        [2**70, 1],
        [2**53 + 1, 0.5],
        [{"a": 1}, 3],
        [3, {"a": 1}],
        [[1], [1, 2]],
        [np.array([1]), np.array([1, 2])],
        [np.array([1]), np.array([0.5])],
        [np.int64(5), 0.5],
        [np.uint64(2**64 - 1), -1],
        ["x", b"x"],
        [float("inf"), 1],
    ],
)
def test_values_of_several_kinds_stay_what_they_are(values: list[Any]) -> None:
    merged = merge_infos([{"a": value} for value in values])["a"]
    for found, value in zip(merged, values, strict=True):
        assert np.array_equal(found, value)
        if isinstance(value, (bool, str, bytes, dict, type(None))):
            assert type(found.item() if isinstance(found, np.generic) else found) is type(value)


def test_a_key_that_is_spelt_as_a_mask_moves() -> None:
    merged = merge_infos([{"a": 1, "_a": "mine"}, {"a": 2}])
    assert merged["_a"].tolist() == [True, True]
    assert merged["a"].tolist() == [1, 2]
    assert merged["_a_"].tolist() == ["mine", None]
    assert merged["__a_"].tolist() == [True, False]


VALUES = some.one_of(
    some.none(),
    some.booleans(),
    some.integers(),
    some.floats(allow_nan=False),
    some.text(max_size=3),
    some.lists(some.integers(), max_size=3),
)
KEYS = some.sampled_from(["a", "b", "ab"])
INFOS = some.dictionaries(KEYS, VALUES | some.dictionaries(KEYS, VALUES, max_size=2), max_size=3)


def taken_out(merged: dict[str, Any], row: int) -> dict[str, Any]:
    found = {}
    for key, value in merged.items():
        if not key.startswith("_") and merged[f"_{key}"][row]:
            single = value[row] if not isinstance(value, dict) else taken_out(value, row)
            found[key] = single.item() if isinstance(single, np.generic) else single
    return found


# The first draw compiles what the later ones use, which takes long on a busy machine.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some.lists(INFOS, min_size=1, max_size=4))
def test_each_info_can_be_taken_out_again(infos: list[dict[str, Any]]) -> None:
    merged = merge_infos(infos)
    for row, info in enumerate(infos):
        assert taken_out(merged, row) == info
