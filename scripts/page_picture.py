"""Draws the page of a recording, as Chromium shows it, into docs/pictures/recording.png."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium as gym
from PIL import Image

import rock_gym  # noqa: F401  (importing it registers the environments)
from rock_gym.wrappers import Record, write_page

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "recording.png"
# By the names that distributions and Google give it.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MOVES = ("up", "right", "up", "left", "left", "down")


def find_browser() -> str | None:
    """Return the path of a Chromium, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def look_at(browser: str, page: Path, picture: Path, *, width: int, height: int) -> None:
    """Have a page drawn by a browser without a screen."""
    with tempfile.TemporaryDirectory() as profile:
        options = (
            "--headless",
            "--no-sandbox",  # its own, which root cannot have; the page is ours
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
        )
        done = subprocess.run(
            [browser, *options, page.as_uri()], capture_output=True, text=True, timeout=120
        )
    if not picture.exists():
        raise RuntimeError(f"{browser} drew nothing:\n{done.stderr}")


def record(tape: Path) -> None:
    """Play an episode that is solved."""
    with Record(gym.make("gem-game/Sokoban-easy-v0"), tape) as env:
        env.reset(seed=14)
        for move in MOVES:
            env.step(rf"\boxed{{{move}}}")


def main() -> int:
    """Draw it; returns the exit code."""
    browser = find_browser()
    if browser is None:
        print("no Chromium is here: apt-get install chromium", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        tape, page, drawn = (Path(folder, name) for name in ("t.jsonl", "t.html", "t.png"))
        record(tape)
        write_page(tape, page)
        look_at(browser, page, drawn, width=900, height=1250)
        with Image.open(drawn) as image:
            image.convert("RGB").quantize(200).save(PICTURE, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
