"""An environment that does what it is told, and vectors of it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from rock_gym import SandboxPool
from rock_gym.envs import SandboxVectorEnv
from tests.contract.support import wait_gone
from tests.gem import local

OBEDIENT = """
import contextlib, os, random, stat, time
import gem

class Obedient(gem.Env):
    def reset(self, seed=None):
        super().reset(seed)
        self.turn = 0
        if getattr(self, "stuck", False):
            time.sleep(1000)
        return f"hello {random.random()}", {"suffix": f"seed {seed}"}

    def step(self, action):
        self.turn += 1
        word, _, rest = action.partition(" ")
        if word == "hang":
            while True:
                pass
        if word == "sleep":
            time.sleep(float(rest))
        if word == "die":
            os._exit(3)
        if word == "raise":
            raise RuntimeError("as told")
        if word == "fill":
            with open("/tmp/full", "wb") as file:
                while True:
                    file.write(b"x" * (1 << 20))
                    file.flush()
        if word == "forge":
            for fd in map(int, os.listdir("/proc/self/fd")):
                with contextlib.suppress(OSError):
                    if stat.S_ISSOCK(os.fstat(fd).st_mode):
                        os.write(fd, bytes.fromhex(rest))
        if word == "hang-next":
            self.stuck = True
        if word == "look":
            return str(os.path.exists(rest)), 0.0, False, False, {}
        if word == "info":
            return "told", 1.0, False, False, {"value": eval(rest)}
        over = word == "end"
        return f"turn {self.turn}: {action} {random.random()}", 0.5, over, over, {"turn": self.turn}

class Unmakeable(Obedient):
    def __init__(self):
        raise RuntimeError("not today")

gem.register("my:Obedient-v0", Obedient)
gem.register("my:Unmakeable-v0", Unmakeable)
"""


def make_vector(pool: SandboxPool, modules: Path, **kwargs: Any) -> SandboxVectorEnv:
    """A vector of it, of which many share a sandbox unless something else is said."""
    given = {
        "gem_id": "my:Obedient-v0",
        "imports": ["obedient"],
        "python_path": [modules],
        "pool": pool,
        "envs_per_sandbox": 64,
    }
    return SandboxVectorEnv(**{**given, **kwargs})


def pid_of(envs: SandboxVectorEnv, number: int) -> int:
    """The host's id of an environment's process."""
    player: Any = envs._players[number]
    return local.pid_of(player._worker)


def kill(pids: set[int]) -> None:
    """Kill processes, and wait until they are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not wait_gone(pids)
