"""Random moves: GEM's own parsers accept every one, and most keep the rules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rock_gym.envs.actions import sample_action
from rock_gym.gem import catalog

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

GAMES = [
    "GuessTheNumber",
    "Mastermind",
    "Minesweeper",
    "Wordle",
    "Hangman",
    "FifteenPuzzle",
    "Sudoku",
    "TowerofHanoi",
    "Game2048",
    "Sokoban",
    "Crosswords",
    "WordSearch",
]

# The share of moves that may break a rule. Guessing ones that were tried before does, and in
# Sudoku so does every number but that of the one solution.
MOSTLY_LEGAL = {"Hangman": 0.5, "Mastermind": 0.25, "Sudoku": 0.6}


def pick(gem_ids: list[str], game: str) -> list[str]:
    """The variants of a game that GEM can make in moments."""
    broken = {"game:FifteenPuzzle-v0-random", "game:Crosswords-v0-random"}
    slow = {"game:Sokoban-v0-hard", "game:Sokoban-v0-random"}
    return [i for i in gem_ids if i.startswith(f"game:{game}-v0") and i not in broken | slow]


@cache
def counts(game: str) -> dict[str, dict[str, int]]:
    gem_ids = [record.gem_id for record in catalog.RECORDS]
    if game == "rg":
        # This one cannot be made without a configuration.
        ids = [i for i in gem_ids if i.startswith("rg:") and i != "rg:composite"]
    else:
        ids = pick(gem_ids, game)
    seeds = {"rg": 3, "GuessTheNumber": 40, "Minesweeper": 40}.get(game, 12)
    # One of reasoning_gym's sources writes files where it runs.
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [sys.executable, str(HERE / "gem_player.py"), str(seeds), *ids],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    played: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return played


@pytest.mark.parametrize("game", [*GAMES, "rg"])
def test_gem_accepts_every_move(game: str) -> None:
    for name, count in counts(game).items():
        assert count["moves"] > 0
        assert count["refused"] == 0, name


@pytest.mark.parametrize("game", GAMES)
def test_most_moves_keep_the_rules_when_the_board_is_seen(game: str) -> None:
    for name, count in counts(game).items():
        if not name.endswith("blind"):
            assert count["illegal"] <= MOSTLY_LEGAL.get(game, 0.1) * count["moves"], name


def test_every_family_has_the_form_its_parser_reads() -> None:
    rng = np.random.default_rng(0)
    assert sample_action("code:Taco8k", None, rng).startswith("```python\n")
    assert sample_action("eval:CodeContest", None, rng).endswith("\n```")
    assert sample_action("qa:HotpotQA", None, rng).startswith("<answer>")
    assert sample_action("eval:2Wiki", None, rng).endswith("</answer>")
    assert sample_action("logic:RuleTaker-d0", None, rng) in (r"\boxed{True}", r"\boxed{False}")
    for gem_id in ("math:GSM8K", "eval:AIME24", "rg:gcd", "my:Env", "game:My-v0", "", "odd"):
        assert sample_action(gem_id, None, rng).startswith(r"\boxed{"), gem_id


@pytest.mark.parametrize("record", catalog.RECORDS, ids=lambda record: record.gem_id)
def test_the_generator_alone_decides(record: catalog.Record) -> None:
    def draw(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [sample_action(record.gem_id, None, rng) for _ in range(20)]

    assert draw(1) == draw(1)
    assert record.gem_id == "rg:boxnet" or draw(1) != draw(2)


BOARD_LIKE = st.text(alphabet="R0123456789C._|#PXO√ -ABC:[],F\n*", max_size=400)
SENTENCES = st.sampled_from(
    [
        "between 9 and 3",
        "between 000000000 and 999999999 ",
        "secret 99 digit code digits from 1 to 0",
        "secret 99999999999999-letter word",
        "lower than 0 higher than 999999999",
        "A: [1, 1]\nB: []\nC: [3, 1]",
        "R1 . . \nR2 . \nR3 1",
        "P _\n_",
    ]
)


@given(game=st.sampled_from(GAMES), text=BOARD_LIKE | SENTENCES | st.text(), seed=st.integers(0, 9))
def test_no_text_is_too_odd(game: str, text: str, seed: int) -> None:
    """Texts come out of a sandbox, and users edit them."""
    rng = np.random.default_rng(seed)
    action = sample_action(f"game:{game}-v0-easy", text, rng)
    assert action.startswith(r"\boxed{")
    assert len(action) < 500
