"""Draws what ``make demo`` prints into docs/pictures/demo.svg.

``--check`` changes nothing and fails if the picture shows something else than what it prints.
"""

from __future__ import annotations

import html
import io
import re
import runpy
import sys
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "demo.svg"
_SANDBOX = re.compile("sandbox-[0-9a-f]{12}")


def draw() -> str:
    """Play, and return the picture."""
    console = Console(record=True, width=100, file=io.StringIO(), highlight=False)
    runpy.run_path(str(ROOT / "examples" / "demo.py"))["play"](console)
    drawn = console.export_svg(title="make demo", unique_id="demo")
    # A picture in a page fetches no fonts, and no line of ours is longer than the terminal.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<clipPath id="demo-line.*?</clipPath>', "", drawn, flags=re.DOTALL)
    drawn = re.sub(r' clip-path="url\(#demo-line-\d+\)"', "", drawn)
    return "".join(line.rstrip() + "\n" for line in drawn.splitlines() if line.strip())


def shown(picture: str) -> str:
    """Return the text that a picture shows, but for the sandbox's id."""
    texts = re.findall(r"<text[^>]*>(.*?)</text>", picture, flags=re.DOTALL)
    return _SANDBOX.sub("sandbox", html.unescape("\n".join(texts)))


def main() -> int:
    """Draw or check; returns the exit code."""
    drawn = draw()
    if "--check" not in sys.argv[1:]:
        PICTURE.write_text(drawn)
    elif shown(drawn) != shown(PICTURE.read_text()):
        print(f"{PICTURE} is not current: run python -m scripts.demo_picture", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
