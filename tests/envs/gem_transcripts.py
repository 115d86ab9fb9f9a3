"""Plays GEM as it is, each environment in a process of its own, and writes down what happens.

Run as ``python gem_transcripts.py <file> <seeds by GEM id, as JSON>``; writes one JSON object per
line.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import Any

import numpy as np

from rock_gym.envs.actions import sample_action

STEPS = 10
PATIENCE_S = 60


def play(gem: Any, gem_id: str, seed: int) -> dict[str, Any]:
    """Play one episode, or its first ten steps."""
    env = gem.make(gem_id)
    rules, info = env.reset(seed=seed)
    steps: list[dict[str, Any]] = []
    transcript = {"gem_id": gem_id, "reset": [rules, info], "steps": steps}
    text, rng = rules + info.get("suffix", ""), np.random.default_rng(0)
    while len(steps) < STEPS:
        action = sample_action(gem_id, text, rng)
        observation, reward, terminated, truncated, info = env.step(action)
        steps.append({"action": action, "reply": [observation, float(reward), info]})
        steps[-1]["flags"] = [bool(terminated), bool(truncated)]
        text = f"{rules}\n{observation}\n{info.get('suffix', '')}"
        if terminated or truncated:
            break
    return transcript


def main() -> None:
    path, seeds = sys.argv[1], json.loads(sys.argv[2])
    import gem

    with open(path, "w") as out:
        for gem_id, seed in seeds.items():
            out.flush()
            pid = os.fork()
            if pid == 0:
                signal.alarm(PATIENCE_S)
                with contextlib.suppress(Exception):
                    out.write(json.dumps(play(gem, gem_id, seed)) + "\n")
                    out.flush()
                os._exit(0)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
