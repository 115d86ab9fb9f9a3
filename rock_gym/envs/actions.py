"""Random moves that GEM's parsers accept, drawn on the host from the text that an agent reads.

GEM's own samplers are missing for most of its ids, and three write moves that their own parser
refuses. Nothing here imports GEM: each function reads what it needs from the text, and falls back
to a move that has the right form in every variant of the game.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from rock_gym.gem import catalog

__all__ = ["sample_action"]

_Item = TypeVar("_Item")
_Sampler = Callable[[str, str, np.random.Generator], str]

_DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Sizes and numbers are read from texts that come out of a sandbox, so they are bounded.
_NUMBER = r"(\d{1,9})"
_SIZE = r"(\d{1,2})"


def sample_action(gem_id: str, text: str | None, rng: np.random.Generator) -> str:
    r"""Draw a legal-looking move.

    Args:
        gem_id: The GEM id, such as ``"game:Sokoban-v0-easy"``. An id that GEM does not ship gets
            what most of GEM's environments read: a number in ``\boxed{}``.
        text: What the agent has read, the rules and the latest board at least. Without it, the
            move has the right form but may be out of place.
        rng: What decides the draw, alone.
    """
    category, _, rest = gem_id.partition(":")
    name, _, variant = rest.partition("-v0")
    if category == "game" and name in _GAMES:
        return _GAMES[name](text or "", variant.removeprefix("-"), rng)
    record = catalog.find(gem_id)
    family = category if record is None else record.family
    if family == "code":
        return _program(rng)
    if family == "qa":
        return f"<answer>{_word(int(rng.integers(3, 8)), rng).lower()}</answer>"
    if family == "logic":
        return _boxed(_choose(("True", "False"), rng))
    if gem_id == "rg:boxnet":
        # Its grader reads the answer as JSON, and any value but a list of steps raises in it.
        return _boxed("[]")
    return _boxed(int(rng.integers(0, 100)))


def _boxed(*parts: object) -> str:
    return f"\\boxed{{{' '.join(map(str, parts))}}}"


def _choose(items: Sequence[_Item], rng: np.random.Generator) -> _Item:
    return items[int(rng.integers(len(items)))]


def _word(length: int, rng: np.random.Generator) -> str:
    pattern = ("BCDFGHLMNPRST", "AEIOU")
    return "".join(_choose(pattern[i % 2], rng) for i in range(length))


def _program(rng: np.random.Generator) -> str:
    body = _choose(("print(input())", f"print({int(rng.integers(0, 100))})"), rng)
    return f"```python\n{body}\n```"


def _last_numbers(pattern: str, text: str) -> tuple[int, ...] | None:
    found = re.findall(pattern, text)
    if not found:
        return None
    last = found[-1]
    return tuple(int(group) for group in ((last,) if isinstance(last, str) else last))


def _last_block(pattern: str, text: str) -> list[re.Match[str]]:
    """Return the matches on the last run of lines that each match in full: the latest board."""
    line_pattern = re.compile(pattern)
    block: list[re.Match[str]] = []
    for line in reversed(text.splitlines()):
        match = line_pattern.fullmatch(line)
        if match is not None:
            block.append(match)
        elif block:
            break
    return block[::-1]


def _cells(rows: Sequence[Sequence[str]], wanted: str) -> list[tuple[int, int]]:
    return [(r, c) for r, row in enumerate(rows) for c, cell in enumerate(row) if cell in wanted]


def _neighbours(r: int, c: int, size: int) -> dict[str, tuple[int, int]]:
    """Return the cells of a square board next to one of them, by direction."""
    around = {name: (r + dr, c + dc) for name, (dr, dc) in _DIRECTIONS.items()}
    return {name: (r, c) for name, (r, c) in around.items() if 0 <= r < size and 0 <= c < size}


def _guess_the_number(text: str, variant: str, rng: np.random.Generator) -> str:
    limits = _last_numbers(rf"between {_NUMBER} and {_NUMBER}", text)
    low, high = limits or (1, 50 if variant == "hard" else 10)
    # The hints are in the text if the caller kept them. They may not leave a number.
    below = [int(n) for n in re.findall(rf"lower than {_NUMBER}", text)]
    above = [int(n) for n in re.findall(rf"higher than {_NUMBER}", text)]
    least, most = max([low, *(n + 1 for n in above)]), min([high, *(n - 1 for n in below)])
    if least > most:
        least, most = low, max(low, high)
    return _boxed(int(rng.integers(least, most + 1)))


def _mastermind(text: str, variant: str, rng: np.random.Generator) -> str:
    length = _last_numbers(rf"secret {_SIZE} digit", text) or (2 if variant == "easy" else 4,)
    most = _last_numbers(rf"digits from 1 to {_SIZE}", text) or (8 if variant == "hard" else 6,)
    # Without duplicates, which is right whether the variant allows them or not.
    count = min(length[0], most[0])
    return _boxed(*(int(n) + 1 for n in rng.permutation(most[0])[:count]))


def _minesweeper(text: str, variant: str, rng: np.random.Generator) -> str:
    board = _last_block(r" ?\d+((?: +[.F*\d])+) *", text)
    rows = [match[1].split() for match in board]
    hidden, flagged = _cells(rows, "."), _cells(rows, "F")
    if hidden and (rng.random() < 0.9 or not flagged):
        verb = "reveal" if rng.random() < 0.9 else "flag"
        return _boxed(verb, *_choose(hidden, rng))
    if flagged:
        return _boxed("flag", *_choose(flagged, rng))
    return _boxed("reveal", int(rng.integers(5)), int(rng.integers(5)))


def _wordle(text: str, variant: str, rng: np.random.Generator) -> str:
    length = _last_numbers(rf"secret {_SIZE}-letter", text) or (3 if variant == "easy" else 5,)
    return _boxed(_word(length[0], rng))


def _hangman(text: str, variant: str, rng: np.random.Generator) -> str:
    grid = _last_block(r"(?:  [A-Z_] )+", text)
    shown = set(grid[-1][0].split()) if grid else set()
    shown.update(re.findall(r"guessed a letter '([A-Z])'", text))
    return _boxed(_choose([letter for letter in _LETTERS if letter not in shown] or "A", rng))


def _fifteen_puzzle(text: str, variant: str, rng: np.random.Generator) -> str:
    board = _last_block(r" *(?:__|\d+)(?: +(?:__|\d+))+ *", text)
    rows = [match[0].split() for match in board]
    gap = next(iter(_cells(rows, "__")), None)
    if gap is None:
        return _boxed(_choose(tuple(_DIRECTIONS), rng))
    # The tile moves into the gap, so it comes from the other side.
    opposite = {"up": "down", "down": "up", "left": "right", "right": "left"}
    return _boxed(_choose([opposite[way] for way in _neighbours(*gap, len(rows))], rng))


def _game_2048(text: str, variant: str, rng: np.random.Generator) -> str:
    board = _last_block(r" *(?:\.|\d{1,9})(?: +(?:\.|\d{1,9})){3} *", text)
    rows = [[0 if cell == "." else int(cell) for cell in match[0].split()] for match in board]
    columns = [list(column) for column in zip(*rows, strict=False)]
    lines = {"left": rows, "right": [r[::-1] for r in rows]}
    lines |= {"up": columns, "down": [c[::-1] for c in columns]}
    legal = [way for way, toward in lines.items() if any(map(_slides, toward))]
    return _boxed(_choose(legal or tuple(_DIRECTIONS), rng))


def _slides(line: list[int]) -> bool:
    """Whether pushing a line of 2048 towards its start changes it."""
    return any(b != 0 and a in (0, b) for a, b in itertools.pairwise(line))


def _sokoban(text: str, variant: str, rng: np.random.Generator) -> str:
    board = _last_block(r"[#_O√XPS](?: [#_O√XPS])+ *", text)
    rows = [match[0].split() for match in board]
    player = next(iter(_cells(rows, "P")), None)
    legal = [way for way in _DIRECTIONS if player and _walks(rows, player, _DIRECTIONS[way])]
    return _boxed(_choose(legal or tuple(_DIRECTIONS), rng))


def _walks(rows: list[list[str]], player: tuple[int, int], step: tuple[int, int]) -> bool:
    """Whether the player can take a step, alone or pushing a box."""
    (r, c), (dr, dc) = player, step
    ahead = _at(rows, r + dr, c + dc)
    if ahead not in "X√":
        return ahead in "_O"
    return _at(rows, r + 2 * dr, c + 2 * dc) in "_O"


def _at(rows: list[list[str]], r: int, c: int) -> str:
    """Return what is in a cell, or a wall beyond the board."""
    return rows[r][c] if 0 <= r < len(rows) and 0 <= c < len(rows[r]) else "#"


def _sudoku(text: str, variant: str, rng: np.random.Generator) -> str:
    # A rule between bands of boxes interrupts the board, so it counts as one of its lines.
    board = _last_block(r"R\d+ +([.\d |]+)| +(?:- *)+", text)
    rows = [match[1].replace("|", " ").split() for match in board if match[1]]
    if any(len(row) != len(rows) for row in rows):
        rows = []
    moves = [
        (r + 1, c + 1, number)
        for r, c in _cells(rows, ".")
        for number in range(1, len(rows) + 1)
        if _fits(rows, r, c, str(number))
    ]
    if not moves:
        return _boxed(*(int(n) for n in rng.integers(1, 5, size=3)))
    return _boxed(*_choose(moves, rng))


def _fits(rows: list[list[str]], r: int, c: int, number: str) -> bool:
    """Whether a number of Sudoku is not yet in the row, the column and the box of a cell."""
    side = int(len(rows) ** 0.5)
    top, left = r - r % side, c - c % side
    box = [cell for row in rows[top : top + side] for cell in row[left : left + side]]
    return number not in [*rows[r], *(row[c] for row in rows), *box]


def _tower_of_hanoi(text: str, variant: str, rng: np.random.Generator) -> str:
    state = _last_block(r"([ABC]): \[([\d, ]*)\]", text)
    disks = {match[1]: [int(n) for n in re.findall(_NUMBER, match[2])] for match in state}
    legal = [
        (source, target)
        for source, moved in disks.items()
        for target, there in disks.items()
        if source != target and moved and (not there or moved[-1] < there[-1])
    ]
    source, target = _choose(legal or (("A", "B"), ("A", "C")), rng)
    return _boxed(source, target)


def _crosswords(text: str, variant: str, rng: np.random.Generator) -> str:
    row, column = _choose(_cells(_grid(text), "_") or [(0, 0)], rng)
    return _boxed(row, column, _choose(_LETTERS, rng))


def _word_search(text: str, variant: str, rng: np.random.Generator) -> str:
    size = max(3, len(_grid(text)))
    line = int(rng.integers(size))
    start, end = sorted(int(n) for n in rng.choice(size, size=2, replace=False))
    return _boxed(*((line, start, line, end) if rng.random() < 0.5 else (start, line, end, line)))


def _grid(text: str) -> list[list[str]]:
    """Read a board with numbered rows whose cells are four characters wide, the third empty."""
    board = _last_block(r"R\d\d (.+)", text)
    return [list(match[1][1::4]) for match in board]


_GAMES: dict[str, _Sampler] = {
    "Crosswords": _crosswords,
    "FifteenPuzzle": _fifteen_puzzle,
    "Game2048": _game_2048,
    "GuessTheNumber": _guess_the_number,
    "Hangman": _hangman,
    "Mastermind": _mastermind,
    "Minesweeper": _minesweeper,
    "Sokoban": _sokoban,
    "Sudoku": _sudoku,
    "TowerofHanoi": _tower_of_hanoi,
    "WordSearch": _word_search,
    "Wordle": _wordle,
}
