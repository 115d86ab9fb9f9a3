"""Plays one environment by its texts, and notes all that it says.

Run as ``python play.py <file of jobs>`` it plays GEM itself, with each environment in a process of
its own as GEM needs it, and prints one line of JSON for each: its id and its transcript.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

# What was reset and stepped: observation, reward, terminated, truncated, info.
Transcript = list[Any]

MOVES = 12

# Sokoban's constructor draws a room by numbers that no seed decides: mostly at once, but at times
# it takes minutes. Another try draws another room.
PATIENCE_S = 10
TRIES = 20


def play(
    gem_id: str,
    seeds: list[int],
    reset: Callable[[int], tuple[str, Any]],
    step: Callable[[str], tuple[Any, ...]],
) -> Transcript:
    """Play an episode per seed, with moves that follow from the texts alone."""
    import numpy as np

    from rock_gym.envs.actions import sample_action

    seen: Transcript = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        observation, info = reset(seed)
        rules, text = observation, f"{observation}\n{info.get('suffix', '')}"
        seen.append([seed, observation, info])
        for _ in range(MOVES):
            action = sample_action(gem_id, text, rng)
            try:
                observation, reward, terminated, truncated, info = step(action)
            except Exception as error:
                seen.append([action, type(error).__name__])
                break
            seen.append([action, observation, float(reward), terminated, truncated, info])
            if terminated or truncated:
                break
            text = f"{rules}\n{observation}\n{info.get('suffix', '')}"
    return seen


def play_gem(gem_id: str, seeds: list[int], make: dict[str, Any]) -> Transcript:
    """Play GEM in this process."""
    import gem
    from gem.envs.registration import ENV_REGISTRY

    from rock_gym.gem.words import supply_words

    spec = ENV_REGISTRY[gem_id]
    __import__(spec.entry_point.partition(":")[0])
    supply_words(os.path.join(tempfile.gettempdir(), f"play-{os.getppid()}"))
    kwargs = dict(make.get("kwargs", {}))
    if "dataset" in make:
        from datasets import Dataset

        kwargs["dataset"] = Dataset.from_list(make["dataset"])
    env = gem.make(gem_id, **kwargs)
    return play(gem_id, seeds, lambda seed: env.reset(seed=seed), env.step)


def in_fork(job: Any) -> Any:
    """Play in a child, and return what it found."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        # Some environments print.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            result: Any = play_gem(*job)
        except BaseException:
            result = traceback.format_exc()
        with os.fdopen(write, "w") as file:
            json.dump(result, file)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        if not select.select([file], [], [], PATIENCE_S)[0]:
            os.kill(pid, signal.SIGKILL)
        text = file.read()
    os.waitpid(pid, 0)
    return json.loads(text or "null")


def import_all(gem_ids: set[str]) -> None:
    """Import what environments are made of, which takes seconds, once and not in each child."""
    import gem  # noqa: F401
    from gem.envs.registration import ENV_REGISTRY

    for name in {ENV_REGISTRY[gem_id].entry_point.partition(":")[0] for gem_id in gem_ids}:
        importlib.import_module(name)


def main() -> None:
    os.chdir(tempfile.mkdtemp())
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    import_all({gem_id for gem_id, *_ in jobs})
    for job in jobs:
        found = None
        for _ in range(TRIES):
            found = found or in_fork(job)
        print(json.dumps([job[0], found]), flush=True)


if __name__ == "__main__":
    main()
