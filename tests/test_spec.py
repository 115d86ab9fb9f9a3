"""What a sandbox may be asked to be."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rock_gym.errors import SpecError
from rock_gym.spec import Resources, SandboxSpec, check_env, parse_cpus, parse_size

UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
SPELLINGS = [
    (spelling, 1024**power)
    for unit, power in UNITS.items()
    for spelling in ([unit] if power == 0 else [unit, f"{unit}b", f"{unit}i", f"{unit}ib"])
]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8g", 8 << 30),
        ("512m", 512 << 20),
        ("1.5gi", 3 << 29),
        ("64", 64),
        ("64b", 64),
        (" 2 GiB ", 2 << 30),
        ("0.5k", 512),
        (4096, 4096),
        (1.0, 1),
        ("1tb", 1 << 40),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "g",
        "-1g",
        "1 g b",
        "1e9",
        "0",
        "0.5",
        "1x",
        "1,5g",
        "١g",
        "nan",
        "inf",
        "9999999t",
        0,
        -1,
        0.5,
        math.nan,
        math.inf,
        True,
        None,
        [],
        b"1g",
    ],
)
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(SpecError, match="memory"):
        parse_size(text, "memory")


@given(st.integers(1, 1 << 20), st.sampled_from(SPELLINGS), st.booleans())
def test_a_unit_multiplies(number: int, unit: tuple[str, int], upper: bool) -> None:
    """In every spelling and case, exactly."""
    text = f"{number}{unit[0]}"
    assert parse_size(text.upper() if upper else text) == number * unit[1]


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_spec_error(text: str) -> None:
    """Nothing else ever comes out."""
    with contextlib.suppress(SpecError):
        assert 1 <= parse_size(text) < 2**63


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_number_is_a_size_or_a_spec_error(number: float) -> None:
    try:
        assert parse_size(number) >= 1
    except SpecError:
        assert not number >= 1 or math.isinf(number)


@pytest.mark.parametrize(("value", "cpus"), [(2, 2.0), (0.5, 0.5), ("2", 2.0), ("0.25", 0.25)])
def test_cpus(value: Any, cpus: float) -> None:
    assert parse_cpus(value) == cpus


@pytest.mark.parametrize("value", [0, -1, "", "two", "nan", math.nan, math.inf, 5000, True, None])
def test_what_is_no_number_of_cpus(value: Any) -> None:
    with pytest.raises(SpecError, match="cpus"):
        parse_cpus(value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"memory": "1m"},
        {"memory": "65t"},
        {"disk": "1k"},
        {"pids": 0},
        {"pids": 2.5},
        {"pids": True},
        {"pids": 1 << 30},
        {"cpus": "many"},
        {"image": ""},
        {"image": "a\0b"},
        {"image": 7},
        {"env": {"": "x"}},
        {"env": {"A=B": "x"}},
        {"env": {"A": "x\0"}},
        {"env": {"A": 1}},
        {"env": {1: "A"}},
    ],
)
def test_absurd_values_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        SandboxSpec.of(**arguments)


def test_equal_specs_are_interchangeable() -> None:
    """However they were written."""
    one = SandboxSpec.of(
        "i", memory="1g", cpus="2", env={"B": "2", "A": "1"}, read_only=("/b", "/a")
    )
    two = SandboxSpec.of(
        "i", memory=1 << 30, cpus=2.0, env={"A": "1", "B": "2"}, read_only=("/a", "/b", "/a")
    )
    assert one == two
    assert hash(one) == hash(two)
    assert one != SandboxSpec.of("i", memory="2g")


def test_they_are_frozen() -> None:
    for value, name in ((SandboxSpec(), "image"), (Resources(), "pids")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)


names = st.text(st.characters(exclude_characters="=\0", exclude_categories=["Cs"]), min_size=1)
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(
    image=st.none() | values.filter(bool),
    cpus=st.none() | st.floats(0.01, 4096),
    memory=st.none() | st.integers(16 << 20, 1 << 40),
    disk=st.none() | st.integers(1 << 20, 1 << 40),
    pids=st.none() | st.integers(1, 4_194_304),
    env=st.dictionaries(names, values, max_size=3),
)
def test_json_and_back(**arguments: Any) -> None:
    """A spec survives being written down."""
    spec = SandboxSpec.of(**arguments)
    assert SandboxSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "value",
    [{"imagine": 1}, {"resources": {"wheels": 4}}, {"resources": {"pids": 0}}, {"env": {"": ""}}],
)
def test_what_is_no_spec(value: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        SandboxSpec.from_json(value)


def test_variables_are_sorted() -> None:
    assert check_env({"B": "2", "A": "1"}) == (("A", "1"), ("B", "2"))
