"""Values and spaces in cassettes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from rock_gym.envs.spaces import ActionText, Unicode
from rock_gym.errors import CassetteError
from rock_gym.wrappers.codec import decode, decode_space, encode, encode_space


def through(value: Any) -> Any:
    """What a cassette makes of a value."""
    return decode(json.loads(json.dumps(encode(value), allow_nan=False)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.sampled_from(["$dict", "$tuple"]), inner)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_values_come_back(value: Any) -> None:
    """With their types, whatever keys they have."""
    again = through(value)
    assert again == value
    assert repr(again) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.array([0.5, math.nan, -math.inf]),
        np.array(3.5, dtype=np.float32),
        np.array([{"a": 1}, None], dtype=object),
        np.float32(0.1),
        np.int64(7),
        b"\x00\xff",
        {1: "one", (2, 3): "two"},
        "half of a pair: \ud800",
    ],
    ids=repr,
)
def test_more_values_come_back(value: Any) -> None:
    again = through(value)
    assert type(again) is type(value)
    assert repr(again) == repr(value)
    assert getattr(again, "dtype", None) == getattr(value, "dtype", None)


def test_what_is_no_data_is_told_by_its_repr() -> None:
    assert through(Ellipsis) == "Ellipsis"


def test_nothing_is_made_from_a_name_in_a_file() -> None:
    with pytest.raises(CassetteError):
        decode({"$object": "os:system"})


@pytest.mark.parametrize(
    "space",
    [
        Unicode(100),
        ActionText("game:Sokoban-v0-easy", 50),
        spaces.Text(5, min_length=2, charset="abc"),
        spaces.Discrete(5, start=-2),
        spaces.Box(-np.inf, np.array([1.0, 2.0], dtype=np.float32)),
        spaces.MultiBinary([2, 3]),
        spaces.MultiDiscrete([2, 3]),
        spaces.Dict(a=spaces.Discrete(2), b=spaces.Tuple([Unicode(3), spaces.Discrete(4)])),
    ],
    ids=repr,
)
def test_spaces_come_back(space: Any) -> None:
    again = decode_space(json.loads(json.dumps(encode_space(space))))
    assert type(again) is type(space)
    assert again == space
    assert space.contains(again.sample())


def test_a_space_that_is_not_recorded() -> None:
    space = spaces.Dict(a=spaces.Sequence(spaces.Discrete(2)))
    assert encode_space(space) is None
    with pytest.raises(CassetteError, match="spaces were not recorded"):
        decode_space(None)
