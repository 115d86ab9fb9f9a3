"""The words of GEM's word games, where the user has no corpus of NLTK's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rock_gym.gem.words import COMMON

PER_LENGTH = {3: 110, 4: 200, 5: 200, 6: 170, 7: 170}

SUPPLY = """
import json, sys
import nltk
from nltk.corpus import words
from rock_gym.gem.words import supply_words
supply_words(sys.argv[1])
supply_words(sys.argv[1])
assert nltk.download("words") is False
print(json.dumps([words.words("en-basic"), words.words("en"), nltk.data.path]))
"""


def dictionary() -> set[str]:
    english_words = pytest.importorskip("english_words")
    found: set[str] = english_words.get_english_words_set(["web2"])
    return found


def supplied(directory: Path) -> tuple[list[str], list[str], list[str]]:
    command = [sys.executable, "-c", SUPPLY, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path.cwd())
    short, full, path = json.loads(done.stdout)
    return short, full, path


def test_the_common_words_follow_from_the_dictionary() -> None:
    """By the rule that stands beside them."""
    words = {w for w in dictionary() if w.isascii() and w.isalpha() and w.islower()}
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for word in words:
        for cut in range(3, len(word) - 2):
            if word[:cut] in words and word[cut:] in words:
                first[word[:cut]] += 1
                second[word[cut:]] += 1
    derived: list[str] = []
    for length, most in PER_LENGTH.items():
        found = (word for word in words if len(word) == length)
        derived += sorted(found, key=lambda w: (-min(first[w], second[w]), w))[:most]
    assert sorted(derived) == list(COMMON)


def test_every_game_finds_enough_of_them() -> None:
    """Wordle takes words of 3 to 5 letters, Hangman of 3, 5 and 7."""
    assert Counter(map(len, COMMON)) == PER_LENGTH
    assert len(set(COMMON)) == 850


def test_nltk_finds_them(tmp_path: Path) -> None:
    """In an order that lasts, without any network."""
    short, full, path = supplied(tmp_path)
    assert short == list(COMMON)
    assert full == sorted(dictionary())
    assert path.count(str(tmp_path)) == 1


def test_a_corpus_of_the_users_own_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "own" / "corpora" / "words"
    corpus.mkdir(parents=True)
    (corpus / "en-basic").write_text("cat\ndog\n")
    (corpus / "en").write_text("aardvark\n")
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "own"))
    short, full, _ = supplied(tmp_path / "ours")
    assert (short, full) == (["cat", "dog"], ["aardvark"])
    assert not (tmp_path / "ours").exists()
