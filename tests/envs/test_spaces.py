"""Spaces of any text, alone and inside gymnasium's machinery."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Text, flatten, flatten_space, unflatten
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from gymnasium.wrappers import FlattenObservation
from hypothesis import given
from hypothesis import strategies as st

from rock_gym.envs.spaces import ActionText, Unicode

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=30)


class Echo(gym.Env[Any, str]):
    """Says how far it is and what it was told; ends after three turns."""

    def __init__(self, nested: bool = False, max_length: int = 1 << 20) -> None:
        text = Unicode(max_length)
        self.nested = nested
        self.action_space = Unicode(100)
        self.observation_space: gym.Space[Any] = (
            gym.spaces.Dict(text=text, n=gym.spaces.Discrete(9)) if nested else text
        )

    def observe(self, text: str) -> Any:
        return {"text": text, "n": self.turn} if self.nested else text

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        return self.observe(f"√ start {self.np_random.integers(1000)} \ud800"), {}

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        return self.observe(f"{self.turn} {action}"), 1.0, self.turn == 3, False, {}


class TestUnicode:
    @given(ANY_TEXT)
    def test_holds_any_text(self, text: str) -> None:
        assert text in Unicode(30)

    @pytest.mark.parametrize("other", ["four", None, 1, b"abc", ["a"]])
    def test_holds_nothing_else(self, other: object) -> None:
        assert other not in Unicode(3)

    def test_holds_texts_of_numpy(self) -> None:
        assert np.str_("abc") in Unicode(3)

    def test_looks_short(self) -> None:
        assert repr(Unicode(3)) == "Unicode(3)"

    def test_equal_means_the_same_texts(self) -> None:
        assert Unicode(3) == Unicode(3)
        assert Unicode(3) == ActionText("rg:gcd", 3) == Unicode(3)
        assert Unicode(3) != Unicode(4)
        assert Unicode(3) != Text(3, min_length=0)
        assert Text(3, min_length=0) != Unicode(3)
        assert is_space_dtype_shape_equiv(Unicode(3), Unicode(3))
        assert not is_space_dtype_shape_equiv(Unicode(3), Unicode(4))

    @pytest.mark.parametrize("space", [Unicode(9, seed=1), ActionText("rg:gcd", 50, seed=1)])
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
    def test_copies_are_equal_and_draw_alike(
        self, space: Unicode, copied: Callable[[Unicode], Unicode]
    ) -> None:
        twin = copied(space)
        assert twin == space
        assert repr(twin) == repr(space)
        assert [twin.sample() for _ in range(5)] == [space.sample() for _ in range(5)]

    def test_draws_plain_texts_of_a_readable_length(self) -> None:
        space = Unicode(1 << 20, seed=0)
        drawn = [space.sample() for _ in range(200)]
        assert all(text in space and text.isascii() and len(text) <= 256 for text in drawn)
        assert len(set(drawn)) > 190

    def test_draws_by_mask_and_probability(self) -> None:
        space = Unicode(20, seed=0)
        only_a = np.array([c == "a" for c in space.characters], dtype=np.int8)
        assert space.sample(mask=(5, only_a)) == "aaaaa"
        assert space.sample(probability=(3, only_a.astype(np.float64))) == "aaa"
        assert len(space.sample(mask=(7, None))) == 7
        assert space.sample(mask=(7, np.zeros_like(only_a))) == ""
        with pytest.raises(ValueError, match="not both"):
            space.sample(mask=(1, None), probability=(1, None))
        with pytest.raises(ValueError, match="length"):
            space.sample(mask=(21, None))
        with pytest.raises(ValueError, match="weight"):
            space.sample(mask=(1, only_a[:5]))

    @pytest.mark.parametrize("length", [-1, 1.5, "3"])
    def test_refuses_a_senseless_length(self, length: Any) -> None:
        with pytest.raises((AssertionError, TypeError, ValueError)):
            Unicode(length)

    def test_batches_to_a_tuple(self) -> None:
        batched = batch_space(Unicode(5), 3)
        assert batched == gym.spaces.Tuple([Unicode(5)] * 3)
        assert concatenate(Unicode(5), ["a", "", "√"], None) == ("a", "", "√")
        assert create_empty_array(Unicode(5), 2) == ("", "")

    @given(ANY_TEXT)
    def test_flattens_to_code_points_and_back(self, text: str) -> None:
        space = Unicode(30)
        flat = flatten(space, text)
        assert flat in flatten_space(space)
        assert unflatten(space, flat) == text

    def test_can_be_flattened_by_the_wrapper(self) -> None:
        env = FlattenObservation(Echo(max_length=64))
        observation, _ = env.reset(seed=1)
        assert observation in env.observation_space
        assert env.step("é√😀")[0] in env.observation_space


class TestActionText:
    def test_draws_moves(self) -> None:
        space = ActionText("game:Sokoban-v0-easy", 100, seed=1)
        moves = {space.sample() for _ in range(50)}
        assert moves == {rf"\boxed{{{way}}}" for way in ("up", "down", "left", "right")}
        assert repr(space) == "ActionText('game:Sokoban-v0-easy', 100)"

    def test_is_seedable(self) -> None:
        space = ActionText("rg:gcd", 100)
        space.seed(4)
        first = [space.sample() for _ in range(5)]
        space.seed(4)
        assert [space.sample() for _ in range(5)] == first

    def test_a_batch_draws_apart(self) -> None:
        batched = batch_space(ActionText("rg:gcd", 100, seed=1), 8)
        assert len(set(batched.sample())) > 3

    def test_a_mask_draws_characters(self) -> None:
        assert len(ActionText("rg:gcd", 100).sample(mask=(4, None))) == 4

    def test_stays_within_its_length(self) -> None:
        space = ActionText("code:Taco8k", 5)
        assert space.sample() in space


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_async_texts_are_those_of_now(mode: AutoresetMode, nested: bool) -> None:
    """Gymnasium's shared memory decodes a Text once, for ever; ours is as right as no memory."""
    makers = [lambda: Echo(nested)] * 3
    asynchronous = AsyncVectorEnv(makers, autoreset_mode=mode)
    synchronous = SyncVectorEnv(makers, autoreset_mode=mode)
    assert asynchronous.shared_memory
    try:
        seen = []
        ends = np.zeros(3, dtype=bool)
        for step in range(9):
            both = []
            for envs in (asynchronous, synchronous):
                if step == 0:
                    both.append(envs.reset(seed=7))
                elif mode == AutoresetMode.DISABLED and ends.any():
                    both.append(envs.reset(options={"reset_mask": ends.copy()}))
                else:
                    both.append(envs.step(tuple(f"é{step}{i}" for i in range(3))))
            texts, expected = (b[0]["text"] if nested else b[0] for b in both)
            assert texts == expected
            ends = both[0][2] if len(both[0]) == 5 else np.zeros(3, dtype=bool)
            assert repr(both[0][1:-1]) == repr(both[1][1:-1])
            # The order in which they list their keys differs.
            assert repr(sorted(both[0][-1].items())) == repr(sorted(both[1][-1].items()))
            seen.append(texts)
        # What was returned before has not changed since.
        assert seen[0][0].startswith("√ start")
        assert seen[0] != seen[1] != seen[2]
    finally:
        asynchronous.close()
        synchronous.close()


def test_async_texts_without_copies_are_live() -> None:
    envs = AsyncVectorEnv([Echo] * 2, copy=False)
    try:
        texts, _ = envs.reset(seed=1)
        envs.step(("a", "b"))
        assert list(texts) == ["1 a", "1 b"]
        assert (len(texts), texts[0], texts[-1], texts[:1]) == (2, "1 a", "1 b", ("1 a",))
        assert repr(texts) == "('1 a', '1 b')"
        with pytest.raises(IndexError):
            texts[2]
    finally:
        envs.close()


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_async_texts_reach_processes_that_were_not_forked(context: str) -> None:
    envs = AsyncVectorEnv([Echo] * 2, context=context)
    try:
        envs.reset(seed=1)
        assert envs.step(("ä", ""))[0] == ("1 ä", "1 ")
    finally:
        envs.close()


def test_a_text_too_long_for_its_space_says_so() -> None:
    space = Unicode(3)
    memory = gym.vector.utils.create_shared_memory(space, n=2)
    gym.vector.utils.write_to_shared_memory(space, 0, "😀😀😀", memory)
    with pytest.raises(ValueError, match="max_length"):
        gym.vector.utils.write_to_shared_memory(space, 0, "x" * 13, memory)
    texts = gym.vector.utils.read_from_shared_memory(space, memory, n=2)
    assert copy.deepcopy(texts) == ("😀😀😀", "")
