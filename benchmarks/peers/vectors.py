"""Vector environments of gymnasium and of gem over the same games, without sandboxes.

python -m benchmarks.peers.vectors KIND GEM_ID NUMBER

It runs by the benchmark's own interpreter, which has them: only what steps the games differs.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from benchmarks.floors import below, proportional_mb
from benchmarks.games import SLEEPER, SLEEPER_ID, Unsandboxed, steps_of
from benchmarks.peers.answering import serve

GYM_ASYNC, GYM_SYNC, GEM_ASYNC, GEM_SYNC = "gym-async", "gym-sync", "gem-async", "gem-sync"


def make(kind: str, gem_id: str, number: int) -> Any:
    """Make so many. gem is imported before any fork, not after it in each."""
    import gem

    if gem_id == SLEEPER_ID:
        with TemporaryDirectory() as directory:
            Path(directory, "sleeper.py").write_text(SLEEPER)
            sys.path.insert(0, directory)
            importlib.import_module("sleeper")
    if kind in (GEM_ASYNC, GEM_SYNC):
        return gem.make_vec([gem_id] * number, async_mode=kind == GEM_ASYNC)
    gem.make(gem_id)
    makers = [lambda: Unsandboxed(gem_id) for _ in range(number)]
    if kind == GYM_SYNC:
        return SyncVectorEnv(makers)
    return AsyncVectorEnv(makers, shared_memory=False)


def main(kind: str, gem_id: str, number: int) -> None:
    """Serve samples of steps of all, and the memory of each process."""
    # gem announces on the standard output what it makes.
    out, sys.stdout = sys.stdout, sys.stderr
    envs = make(kind, gem_id, number)
    sys.stdout = out
    envs.reset(seed=1)
    step = steps_of(envs, gem_id, number)

    def memory() -> float:
        return sum(map(proportional_mb, {os.getpid(), *below(os.getpid())})) / number

    serve(
        {
            "step": lambda count: [step() for _ in range(count)],
            "memory": lambda count: [memory() for _ in range(count)],
        }
    )
    if hasattr(envs, "close"):
        envs.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
