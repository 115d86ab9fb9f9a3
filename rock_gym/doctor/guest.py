"""What GEM's environments need beside a sandbox."""

from __future__ import annotations

from importlib.machinery import PathFinder

from rock_gym.doctor.checks import Check
from rock_gym.errors import RockGymError
from rock_gym.gem.interpreter import GuestPython, find_guest_python

PART = "gem"

_INSTALL = "rock-gym guest install"


def examine_gem() -> list[Check]:
    """Look for an interpreter that finds GEM, and for the words that its games draw from."""
    try:
        python = find_guest_python()
    except RockGymError as error:
        return [Check(PART, "interpreter", "missing", error.message, _INSTALL)]
    return [
        Check(PART, "interpreter", "ok", f"GEM is found by {python.executable}"),
        _words(python),
        _crosswords(python),
    ]


def _has(python: GuestPython, package: str) -> bool:
    return PathFinder.find_spec(package, list(python.site_dirs)) is not None


def _words(python: GuestPython) -> Check:
    if python.nltk_data:
        return Check(PART, "words", "ok", f"the corpus in {', '.join(python.nltk_data)}")
    if _has(python, "english_words"):
        return Check(PART, "words", "ok", "a dictionary (english-words)")
    return Check(
        PART,
        "words",
        "degraded",
        "word games know common words alone",
        f"{python.executable} -m pip install english-words",
    )


def _crosswords(python: GuestPython) -> Check:
    if _has(python, "pandas"):
        return Check(PART, "crosswords", "ok", "pandas is there")
    return Check(
        PART,
        "crosswords",
        "missing",
        "Crosswords needs pandas",
        f"{python.executable} -m pip install pandas",
    )
