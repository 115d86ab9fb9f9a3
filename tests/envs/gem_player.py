"""Plays GEM environments in a process of its own: importing gem changes the process it is in.

Run as ``python gem_player.py <seeds> <gem id>...``; prints one JSON object, by id: how many moves
were made, how many the parser refused and how many broke a rule.
"""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import numpy as np

from rock_gym.envs.actions import sample_action

WORDS = "cat dog sun map tree lamp bird house table chair river garden picture kitchen morning"
BROKE_A_RULE = -0.07


def import_gem() -> Any:
    import nltk
    import nltk.corpus

    # A few words in place of the corpus, which is not part of the nltk package.
    nltk.download = lambda *args, **kwargs: True
    nltk.corpus.words = types.SimpleNamespace(words=lambda fileid=None: WORDS.split())
    import gem
    from gem.utils.constants import LanguageGameReward

    # GEM pays 0 for a move that breaks a rule, as it does for one that gains nothing.
    LanguageGameReward.invalid_action_reward = BROKE_A_RULE
    return gem


def play(gem: Any, gem_id: str, seeds: int, blind: bool) -> dict[str, int]:
    """Play one episode per seed, and sort its moves by the reward that GEM gave each."""
    from gem.utils.constants import LanguageGameReward

    env = gem.make(gem_id)
    rng = np.random.default_rng(0)
    count = {"moves": 0, "refused": 0, "illegal": 0}
    for seed in range(seeds):
        rules, info = env.reset(seed=seed)
        text, ended = rules + info.get("suffix", ""), False
        while not ended:
            action = sample_action(gem_id, None if blind else text, rng)
            observation, reward, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
            count["moves"] += 1
            count["refused"] += reward == LanguageGameReward.format_error_reward
            count["illegal"] += reward == BROKE_A_RULE
            text = f"{rules}\n{observation}\n{info.get('suffix', '')}"
    return count


def answer(gem: Any, gem_id: str, seeds: int) -> dict[str, int]:
    """Answer questions of reasoning_gym; a grader that raises fails the run."""
    from gem.utils.parsing import extract_last_boxed_answer

    # Ten questions: one further on in number_sequence takes forever.
    env = gem.make(gem_id, size=10)
    rng = np.random.default_rng(0)
    count = {"moves": 0, "refused": 0}
    for seed in range(seeds):
        question, _ = env.reset(seed=seed)
        action = sample_action(gem_id, question, rng)
        env.step(action)
        count["moves"] += 1
        count["refused"] += extract_last_boxed_answer(action) is None
    return count


def main() -> None:
    gem = import_gem()
    seeds, ids = int(sys.argv[1]), sys.argv[2:]
    counts: dict[str, dict[str, int]] = {}
    for gem_id in ids:
        if gem_id.startswith("rg:"):
            counts[gem_id] = answer(gem, gem_id, seeds)
        else:
            counts[gem_id] = play(gem, gem_id, seeds, blind=False)
            counts[f"{gem_id} blind"] = play(gem, gem_id, seeds, blind=True)
    # Some of reasoning_gym's sources print, and do not end their lines.
    print(f"\n{json.dumps(counts)}")


if __name__ == "__main__":
    main()
