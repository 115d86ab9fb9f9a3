"""Whatever an environment puts into an info becomes JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rock_gym.envs.vector_infos import merge_infos
from rock_gym.server.encode import encode


def read(value: Any) -> Any:
    """As a strict parser has it: NaN is no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(encode(value), parse_constant=refuse)


class Odd:
    def __repr__(self) -> str:
        return "<odd>"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, 1.5),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), "NaN"),
        (np.longdouble(0.25), 0.25),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(3), 3),
        (np.array([[1, 2], [3, 4]], dtype=np.uint8), [[1, 2], [3, 4]]),
        (np.array([0.5, np.nan, -np.inf]), [0.5, "NaN", "-Infinity"]),
        (np.array([0.5, np.inf], dtype=np.longdouble), [0.5, "Infinity"]),
        (np.array(["a", None, math.nan, b"b"], dtype=object), ["a", None, "NaN", "b"]),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), ["datetime.date(2020, 1, 1)"]),
        (b"caf\xc3\xa9 \xff", "café \\xff"),
        (bytearray(b"x"), "x"),
        ("a\ud800b", "a\ufffdb"),
        ({"k": {"deep": (1, math.nan)}}, {"k": {"deep": [1, "NaN"]}}),
        ({1: "one", None: 2, ("a",): 3}, {"1": "one", "None": 2, "('a',)": 3}),
        ({"s": {3, 1, 2}}, {"s": [1, 2, 3]}),
        (2**64 - 1, 2**64 - 1),
        (2**70, 2**70),
        (1 + 2j, "(1+2j)"),
        (Odd(), "<odd>"),
        (Broken(), "<Broken>"),
        (None, None),
    ],
)
def test_values(value: Any, expected: Any) -> None:
    assert read(value) == expected
    assert read({"info": [value]}) == {"info": [expected]}


def test_numbers_that_python_refuses_to_write_out() -> None:
    assert read([1 << 100_000]) == ["<int of 100001 bits>"]


def test_what_holds_itself_is_cut() -> None:
    value: dict[str, Any] = {}
    value["again"] = [value, value]
    assert read(value)["again"][0]["again"]


def test_infos_of_a_batch() -> None:
    merged = merge_infos([{"a": 1, "t": "x"}, {"a": math.nan}, {"d": {"b": [math.inf]}}])
    found = read(merged)
    assert found["a"] == [1.0, "NaN", 0.0]
    assert found["_a"] == [True, True, False]
    assert found["t"] == ["x", None, None]
    assert found["d"]["b"] == [None, None, ["Infinity"]]


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers()
    | arrays.from_dtype(np.dtype("f4"))
    | arrays.arrays(st.sampled_from(["f8", "i2", "U3", "S3", "?", "O"]), (2,)),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.binary(), inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(anything)
def test_nothing_fails(value: Any) -> None:
    read(value)
