"""Random work while things break: ``python -m tests.soak --seconds 1800 --seed 7``.

On each backend there are one who works in a sandbox, one who works with a pool, one who plays an
environment, one who plays a vector, and one who starts and kills whole owners. What they do and
what breaks is drawn from the seed; the moments are the machine's as well. Each knows what must come
out. At the end everything is given back, and what there is then must be what there was before.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import rock_gym
from rock_gym.backends import close_backends
from rock_gym.default_pools import close_default_pools
from rock_gym.errors import RockGymError
from tests.contract.support import command_line, descendants, eventually
from tests.soak.inventory import Inventory
from tests.soak.ledger import Ledger
from tests.soak.owners import Owners
from tests.soak.players import Player, Trainer, Turn, true_episodes
from tests.soak.sandboxes import Actor, Lender, Worker


def give_back() -> None:
    close_default_pools()
    close_backends()


MEMORY_SAMPLES = 10


class Cast:
    """All actors of a soak, each in a thread of its own."""

    def __init__(
        self, backends: list[str], seed: int, ledger: Ledger, truth: dict[int, list[Turn]]
    ) -> None:
        self.ledger = ledger
        # Process ids that owners and launchers have had.
        self.pids: set[int] = set()
        self.memory_mib: list[int] = []
        makers: list[Callable[[], Actor]] = []
        for backend in backends:
            makers += [
                partial(Worker, backend, seed, ledger),
                partial(Lender, backend, seed, ledger),
                partial(Player, backend, seed, ledger, truth),
                partial(Trainer, backend, seed, ledger, truth),
                partial(Owners, backend, seed, ledger, self.pids),
            ]
        self._ready = threading.Barrier(len(makers) + 1)
        self._threads = [threading.Thread(target=self._act, args=[make]) for make in makers]

    def play(self, seconds: float) -> None:
        """Have all of them act for so long, counted from when all are there."""
        for thread in self._threads:
            thread.start()
        with suppress(threading.BrokenBarrierError):
            self._ready.wait()
        for _ in range(MEMORY_SAMPLES):
            self.memory_mib.append(memory_kib() >> 10)
            self.ledger.over.wait(seconds / MEMORY_SAMPLES)
        self.memory_mib.append(memory_kib() >> 10)
        self.pids |= {pid for pid in descendants() if "/launcher" in command_line(pid)}
        self.ledger.over.set()
        for thread in self._threads:
            thread.join()

    def _act(self, make: Callable[[], Actor]) -> None:
        actor = None
        try:
            actor = make()
            self._ready.wait()
            while not self.ledger.over.is_set():
                actor.turn()
        except threading.BrokenBarrierError:
            pass  # another one could not begin, and says why
        except BaseException:
            self._ready.abort()
            self.ledger.find_wrong(f"{actor and actor.diary}\n{traceback.format_exc()}")
        finally:
            if actor is not None:
                actor.close()


def soak(backends: list[str], seconds: float, seed: int) -> dict[str, object]:
    """Do it, and return what is to be told."""
    truth = true_episodes(backends[0])
    for backend in backends:  # what is made once is made now
        rock_gym.Sandbox.start(backend=backend).delete()
    give_back()
    before = Inventory.now(frozenset())
    ledger = Ledger()
    cast = Cast(backends, seed, ledger, truth)
    begin = time.monotonic()
    cast.play(seconds)
    took_s = time.monotonic() - begin
    for backend in backends:  # a start sweeps the control groups that a killed owner has left
        try:
            rock_gym.Sandbox.start(backend=backend).delete()
        except RockGymError as error:
            ledger.find_wrong(f"{backend} starts nothing any more: {error}")
    give_back()
    owners = frozenset(cast.pids)
    eventually(lambda: not Inventory.now(owners).left_since(before), 30)
    after = Inventory.now(owners)
    return {
        "backends": backends,
        "seed": seed,
        "seconds": round(took_s),
        **ledger.summary(),
        "leaks": len(after.left_since(before)),
        "left behind": after.left_since(before),
        "wrong": ledger.wrong,
        "inventory before": before.sizes(),
        "inventory after": after.sizes(),
        "memory_mib": cast.memory_mib,
        "by kind": {
            name: dict(sorted(getattr(ledger, name).items()))
            for name in ("operations", "faults", "survived", "refused", "errors")
        },
    }


def memory_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 10


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--backends", default="bubblewrap,docker")
    options = parser.parse_args()
    logging.getLogger("rock_gym").setLevel(logging.ERROR)  # it warns of each fault, as it should
    # Directories of its own, so that they can be looked through at the end.
    own = tempfile.mkdtemp(prefix="soak-")
    try:
        for name in ("tmp", "data"):
            Path(own, name).mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = f"{own}/tmp"
        os.environ["ROCK_GYM_DATA"] = f"{own}/data"
        told = soak(options.backends.split(","), options.seconds, options.seed)
    finally:
        shutil.rmtree(own)
    print(json.dumps(told, indent=2))
    return 1 if told["wrong"] or told["leaks"] else 0


if __name__ == "__main__":
    sys.exit(main())
