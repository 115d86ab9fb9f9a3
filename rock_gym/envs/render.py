"""Text as a picture: the frames of ``render_mode="rgb_array"``.

Every frame has the same size, as video encoders want it. The letters are those of the fixed-width
font inside Pillow, which covers Latin-1, so no font needs to be installed and frames are the same
on every machine; lines, blocks, arrows and the root sign that GEM's boards use are drawn here.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

__all__ = ["COLUMNS", "FRAME_SHAPE", "ROWS", "draw_text"]

COLUMNS = 78
ROWS = 30
_SCALE = 2
_WIDTH, _HEIGHT = 6 * _SCALE, 11 * _SCALE
_MIDDLE = (_WIDTH // 2, _HEIGHT // 2)
# A margin of one cell all around. 704 and 960 are multiples of 16, as encoders like it.
FRAME_SHAPE = ((ROWS + 2) * _HEIGHT, (COLUMNS + 2) * _WIDTH, 3)

# From paper to ink.
_COLOURS = np.linspace((24, 26, 31), (222, 226, 230), 256).round().astype(np.uint8)
_CUT = "[...]"

_EDGES = {
    "LEFT": (0, _MIDDLE[1]),
    "RIGHT": (_WIDTH - 1, _MIDDLE[1]),
    "UP": (_MIDDLE[0], 0),
    "DOWN": (_MIDDLE[0], _HEIGHT - 1),
}
# The words of a character's Unicode name, and the edges of the cell that its lines reach.
_REACHES = {
    "HORIZONTAL": ("LEFT", "RIGHT"),
    "VERTICAL": ("UP", "DOWN"),
    "LEFT": ("LEFT",),
    "RIGHT": ("RIGHT",),
    "UP": ("UP",),
    "DOWN": ("DOWN",),
}
_ARROWS = dict(zip("←→↑↓⇐⇒⇑⇓", ("LEFT", "RIGHT", "UP", "DOWN") * 2, strict=True))
_SHADES = {"█": 255, "▓": 191, "▒": 128, "░": 64}
_LOOKALIKES = str.maketrans("‐‑‒–—―−•‘’“”⋅∙★☆", "-------·''\"\"··**")


def draw_text(text: str) -> NDArray[np.uint8]:
    """Draw a text, its last lines if it is too long, on a frame of ``FRAME_SHAPE``.

    A character that cannot be drawn becomes an empty box: nothing is left out unseen.
    """
    lines = _lay_out(text)
    ink = np.zeros(FRAME_SHAPE[:2], dtype=np.uint8)
    for row, line in enumerate(lines, start=1):
        for column, char in enumerate(line, start=1):
            if char != " ":
                top, left = row * _HEIGHT, column * _WIDTH
                ink[top : top + _HEIGHT, left : left + _WIDTH] = _glyph(char)
    return _COLOURS[ink]


def _lay_out(text: str) -> list[str]:
    """Break a text into lines that fit, and keep the last: GEM's boards come last."""
    lines = [piece for line in text.expandtabs(4).splitlines() for piece in _wrap(line)]
    return lines if len(lines) <= ROWS else [_CUT, *lines[1 - ROWS :]]


def _wrap(line: str) -> list[str]:
    """Break a line where a word begins, if there is one in its second half."""
    pieces = []
    while len(line) > COLUMNS:
        space = line.rfind(" ", COLUMNS // 2, COLUMNS + 1)
        end = space if space > 0 else COLUMNS
        pieces.append(line[:end])
        line = line[end:].removeprefix(" ")
    return [*pieces, line]


@functools.lru_cache(maxsize=4096)
def _glyph(char: str) -> NDArray[np.uint8]:
    # Imported here because only those who look at frames need Pillow.
    from PIL import Image, ImageDraw

    if ord(char) >= 0x100:
        char = _simplify(char)
    if ord(char) < 0x100 and char.isprintable():
        return _letter(char)
    image = Image.new("L", (_WIDTH, _HEIGHT))
    _draw_sign(ImageDraw.Draw(image), char)
    return np.asarray(image)


def _simplify(char: str) -> str:
    """Return a Latin-1 character that reads the same, such as for full-width forms, or itself."""
    plain = unicodedata.normalize("NFKC", char).translate(_LOOKALIKES)
    if plain.isalpha():
        # Without its accent a letter still reads the same. A sign would not: ≠ is no =.
        plain = unicodedata.normalize("NFD", plain)[:1]
    return plain if len(plain) == 1 and ord(plain) < 0x100 else char


def _letter(char: str) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("1", (_WIDTH // _SCALE, _HEIGHT // _SCALE))
    ImageDraw.Draw(image).text((0, 0), char, fill=1, font=ImageFont.load_default_imagefont())
    small = np.asarray(image).astype(np.uint8) * 255
    return small.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)


def _draw_sign(draw: ImageDraw, char: str) -> None:
    words = unicodedata.name(char, "").replace("-", " ").split()
    right, bottom = _WIDTH - 1, _HEIGHT - 1
    if char in _SHADES:
        draw.rectangle((0, 0, right, bottom), fill=_SHADES[char])
    elif words[:2] == ["BOX", "DRAWINGS"] and "DIAGONAL" not in words:
        _draw_lines(draw, words)
    elif char in _ARROWS:
        _draw_arrow(draw, _EDGES[_ARROWS[char]])
    elif char == "…":
        for x in (1, 5, 9):
            draw.rectangle((x, 15, x + 1, 16), fill=255)
    elif char == "√":
        draw.line((0, 12, 3, 12, 6, 18, right, 3), fill=255, width=2)
    elif char in "✓✔✅":
        draw.line((1, 11, 4, 16, right - 1, 5), fill=255, width=2)
    elif char in "✗✘❌":
        draw.line((1, 5, right - 1, 16), fill=255, width=2)
        draw.line((1, 16, right - 1, 5), fill=255, width=2)
    else:
        # Smaller than the cell, so that a row of them can be counted.
        draw.rectangle((1, 3, right - 2, bottom - 4), outline=255)


def _draw_lines(draw: ImageDraw, words: list[str]) -> None:
    width = 3 if {"HEAVY", "DOUBLE"} & set(words) else 1
    for word in words:
        for edge in _REACHES.get(word, ()):
            draw.line((*_MIDDLE, *_EDGES[edge]), fill=255, width=width)


def _draw_arrow(draw: ImageDraw, edge: tuple[int, int]) -> None:
    """Draw an arrow from the other side of the cell to an edge of it."""
    x, y = _MIDDLE
    dx, dy = np.sign(edge[0] - x), np.sign(edge[1] - y)
    tip = (x + 5 * dx, y + 8 * dy)
    draw.line((x - 5 * dx, y - 8 * dy, *tip), fill=255, width=2)
    for turn in (-4, 4):
        draw.line((*tip, tip[0] - 4 * dx + turn * dy, tip[1] - 4 * dy + turn * dx), fill=255)
