"""Text as pictures."""

from __future__ import annotations

import numpy as np
import pytest

from rock_gym.envs.render import COLUMNS, FRAME_SHAPE, ROWS, draw_text

LINE = "x" * COLUMNS


@pytest.mark.parametrize("text", ["", "a", "a\n" * 500, "x" * 10_000, "\x00\x1b[0m\t", "\ud800"])
def test_every_frame_has_the_same_form(text: str) -> None:
    frame = draw_text(text)
    assert frame.shape == FRAME_SHAPE
    assert frame.dtype == np.uint8


def test_frames_suit_video_encoders() -> None:
    assert FRAME_SHAPE[0] % 16 == FRAME_SHAPE[1] % 16 == 0


def test_the_same_text_gives_the_same_frame_in_new_memory() -> None:
    one, two = draw_text("board"), draw_text("board")
    assert np.array_equal(one, two)
    assert not np.shares_memory(one, two)


@pytest.mark.parametrize("char", "aZ09#|é×√│┼═┌→↑█░…✓❌中😀≠\x1b\U000e01d2｜")
def test_no_character_is_left_out_unseen(char: str) -> None:
    assert not np.array_equal(draw_text(f"a{char}b"), draw_text("a b"))


@pytest.mark.parametrize("pair", ["√x", "│─", "┌┘", "←→", "↑↓", "█░", "PX", "O0", "≠="])
def test_signs_that_differ_look_different(pair: str) -> None:
    assert not np.array_equal(draw_text(pair[0]), draw_text(pair[1]))


def test_lines_of_boxes_meet() -> None:
    """A row of horizontal lines has no gaps, and neither has a column of vertical ones."""
    ink = draw_text("──\n").max(axis=2)
    row = ink[int(ink.sum(axis=1).argmax())]
    lit = np.flatnonzero(row > row.min())
    assert np.array_equal(lit, np.arange(lit[0], lit[-1] + 1))


def test_wide_forms_look_like_plain_ones() -> None:
    assert np.array_equal(draw_text("｜＜"), draw_text("|<"))


def test_a_long_text_keeps_its_end() -> None:
    """The board comes last."""
    text = "\n".join(map(str, range(200)))
    tail = "\n".join(map(str, range(200 - ROWS + 1, 200)))
    assert np.array_equal(draw_text(text), draw_text(f"[...]\n{tail}"))


def test_long_lines_break_between_words() -> None:
    assert np.array_equal(draw_text(f"{LINE[4:]} word"), draw_text(f"{LINE[4:]}\nword"))
    assert np.array_equal(draw_text(f"{LINE}yz"), draw_text(f"{LINE}\nyz"))
