"""Random numbers that environments of one process draw as if each had it to itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rock_gym.gem.chance import Chance, State

DRAWS: list[Callable[[], Any]] = [
    random.random,
    lambda: random.gauss(0, 1),
    lambda: random.sample(range(100), 3),
    lambda: random.getrandbits(70),
    np.random.rand,
    np.random.randn,
    lambda: np.random.normal(3, 2),
    lambda: np.random.permutation(5).tolist(),
    lambda: random.seed(7),
    lambda: np.random.seed(7),
]


@pytest.fixture(autouse=True)
def leave_as_found() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    yield
    random.setstate(python)
    np.random.set_state(numpy)


def begin(chance: Chance, seed: int) -> State:
    random.seed(seed)
    np.random.seed(seed)
    return chance.take()


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(range(len(DRAWS)))), max_size=60))
@settings(max_examples=150, deadline=None)
def test_each_draws_what_it_would_alone(turns: list[tuple[int, int]]) -> None:
    chance = Chance()
    alone: list[list[Any]] = []
    for who in range(3):
        begin(chance, who)
        alone.append([DRAWS[draw]() for number, draw in turns if number == who])
    states = [begin(chance, who) for who in range(3)]
    seen: list[list[Any]] = [[], [], []]
    for who, draw in turns:
        chance.give(states[who])
        seen[who].append(DRAWS[draw]())
        states[who] = chance.take()
    assert seen == alone


def test_a_long_way() -> None:
    """Past the point where the generators make their next words."""
    chance = Chance()
    first, second = begin(chance, 1), begin(chance, 2)
    chance.give(first)
    alone = [(random.random(), np.random.rand()) for _ in range(2000)]
    chance.give(first)
    for expected in alone:
        chance.give(first)
        assert (random.random(), np.random.rand()) == expected
        first = chance.take()
        chance.give(second)
        random.random()
        np.random.randn()
        second = chance.take()


def test_an_interpreter_that_keeps_them_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "getstate", lambda: (3, tuple(range(625)), None))
    with pytest.raises(RuntimeError, match="envs_per_process="):
        Chance()
