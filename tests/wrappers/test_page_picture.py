"""A cassette's page, looked at with a browser: what was recorded is there to be read."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from rock_gym.wrappers import Record, write_page
from scripts.page_picture import find_browser, look_at
from tests.conftest import required

UP, DOWN, RED = (0x22, 0xAA, 0x88), (0xCC, 0x55, 0x44), (0xFF, 0, 0)
BOARD = "# # # # #\n" * 5


class Painter(gym.Env[Any, Any]):
    """Wins and loses by turns, and would paint everything red."""

    observation_space = gym.spaces.Text(1000)
    action_space = gym.spaces.Text(1000)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        return f"<style>* {{ background: #f00 !important }}</style>\n{BOARD}", {}

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        return f"turn {self.turn}\n{BOARD}", (-0.5, 0.5)[self.turn % 2], self.turn == 6, False, {}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray[Any, Any]:
    browser = find_browser()
    if browser is None:
        reason = "no Chromium is here: apt-get install chromium"
        if "docker" in required():
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("page")
    tape, page, drawn = (folder / name for name in ("tape.jsonl", "tape.html", "tape.png"))
    with Record(Painter(), tape) as env:
        env.reset(seed=1)
        for _ in range(6):
            env.step("<img src=x onerror=\"document.body.style.background='#f00'\">")
    assert write_page(tape, page) == 1
    look_at(browser, page, drawn, width=800, height=1600)
    with Image.open(drawn) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def near(picture: np.ndarray[Any, Any], colour: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Where a colour is, or one that screens do not tell from it."""
    found: np.ndarray[Any, Any] = np.abs(picture - np.array(colour)).max(axis=2) < 12
    return found


def test_rewards_are_coloured(picture: np.ndarray[Any, Any]) -> None:
    """As bars, three up and three down, and beside each step."""
    up, down = near(picture, UP), near(picture, DOWN)
    assert up.sum() > 300
    assert down.sum() > 300
    bars_up, bars_down = (
        np.flatnonzero(up.sum(axis=1) >= 15),
        np.flatnonzero(down.sum(axis=1) >= 15),
    )
    assert bars_up.max() < bars_down.min()  # over the line, and under it


def test_the_boards_are_there(picture: np.ndarray[Any, Any]) -> None:
    """Dark signs all the way down a page that is light."""
    dark = picture.max(axis=2) < 90
    assert 0.002 < dark.mean() < 0.2
    for part in np.array_split(dark, 8):
        assert part.any()


def test_what_was_recorded_does_not_paint(picture: np.ndarray[Any, Any]) -> None:
    assert not near(picture, RED).any()
