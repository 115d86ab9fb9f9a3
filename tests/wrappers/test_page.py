"""A cassette as a page: whole, safe to open, and needing nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rock_gym.envs import SandboxVectorEnv
from rock_gym.errors import CassetteError
from rock_gym.wrappers import Record, write_page
from tests.wrappers.games import FAULT, GAME

NASTY = "<script>alert(1)</script> & \"'> <img src=http://x/> \x1b[2J\x00 \ud800"


class Talking(gym.Env[Any, Any]):
    """Says nasty things."""

    observation_space = gym.spaces.Text(1000)
    action_space = gym.spaces.Text(1000)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return NASTY, {NASTY: NASTY}

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return NASTY, -0.5, True, False, {}


class Reader(HTMLParser):
    """Checks that what is opened is closed, and collects tags, attributes and texts."""

    LEFT_OPEN = ("meta", "tr", "td", "th", "p", "rect", "path")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.LEFT_OPEN:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.LEFT_OPEN:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    return tmp_path / "tape.jsonl"


def page_of(tape: Path, **kwargs: Any) -> tuple[str, Reader]:
    target = tape.with_suffix(".html")
    write_page(tape, target, **kwargs)
    page = target.read_text()
    return page, Reader(page)


def test_episodes_of_a_vector(tape: Path) -> None:
    """Each with its steps, rewards and end; the overview leads to all of them."""
    envs = SandboxVectorEnv([lambda: gym.make(GAME)] * 2, on_fault="truncate")
    with Record(envs, tape) as recorded:
        recorded.reset(seed=5)
        for actions in ([1, 10], [2, 20], [3, FAULT], [0, 0], [4, 40]):
            recorded.step(np.array(actions))
    page, read = page_of(tape)
    assert sorted(re.findall(r'<section id="(.*?)">', page)) == ["e0-1", "e0-2", "e1-1", "e1-2"]
    assert set(re.findall(r'href="#(.*?)"', page)) == {"e0-1", "e0-2", "e1-1", "e1-2"}
    assert "3 steps, return +6.000, terminated" in read.texts
    assert "3 steps, return +30.000, step_timeout" in read.texts
    assert "1 steps, return +40.000, unfinished" in read.texts
    assert f"2 \N{MULTIPLICATION SIGN} {GAME}" in read.texts
    assert re.search(r"<td>1<td><a .*?>1</a><td>6<td>3<td>\+30\.000<td>step_timeout", page)


def test_nothing_that_was_recorded_does_anything(tape: Path) -> None:
    with Record(Talking(), tape) as env:
        env.reset()
        env.step(NASTY)
    page, read = page_of(tape)
    assert not {"script", "img", "link", "iframe"} & read.tags
    assert not {"src", "srcset", "onload", "onclick"} & read.attributes
    assert "http:" not in re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL)
    assert "default-src 'none'" in page
    shown = [text for text in read.texts if "alert(1)" in text]
    assert len(shown) == 4
    assert shown[0] == NASTY.replace("\x1b", "\ufffd").replace("\x00", "\ufffd").replace(
        "\ud800", "?"
    )


def test_a_long_one_is_cut_and_says_so(tape: Path) -> None:
    with Record(gym.make(GAME, length=9), tape) as env:
        env.reset(seed=1)
        for action in range(9):
            env.step(action)
    page, read = page_of(tape, most_steps=4)
    assert "Only the first 4 steps are shown." in read.texts
    assert page.count("<b>step ") == 4
    page, read = page_of(tape)
    assert "Only" not in page
    assert page.count("<b>step ") == 9


def test_no_place_to_write(tape: Path) -> None:
    with Record(gym.make(GAME), tape):
        pass
    with pytest.raises(CassetteError, match="cannot be written"):
        write_page(tape, tape / "below.html")
