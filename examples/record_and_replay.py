"""A recording: made, read as a page, and played back to a trainer's code without any sandbox."""

import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym

import rock_gym  # noqa: F401  (importing it registers the environments)
from rock_gym.wrappers import Record, Replay, rerun, write_page


def evaluate(env: gym.Env[Any, Any]) -> float:
    """What is to be tested: it plays up and down, and sums up rewards."""
    env.reset(seed=7)
    total = 0.0
    for turn in range(8):
        _, reward, terminated, truncated, _ = env.step(("\\boxed{up}", "\\boxed{left}")[turn % 2])
        total += float(reward)
        if terminated or truncated:
            break
    return total


with tempfile.TemporaryDirectory() as folder:
    tape, page = Path(folder, "tape.jsonl"), Path(folder, "tape.html")
    with Record(gym.make("gem-game/Game2048-easy-v0"), tape) as env:
        played = evaluate(env)
    replayed = evaluate(Replay(tape))
    outcome = rerun(tape)  # as `rock-gym replay tape.jsonl` does
    episodes = write_page(tape, page)  # as `rock-gym replay tape.jsonl --html tape.html` does
    print(f"return {played:+.2f} in a sandbox, {replayed:+.2f} played back")
    print(f"done again: {outcome.steps} steps, difference: {outcome.difference}")
    print(f"{episodes} episode on a page of {page.stat().st_size} bytes")
