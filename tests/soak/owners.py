"""Owners: processes of their own that hold sandboxes, and are killed at some moment."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from tests.contract.support import Owner, command_line, descendants, eventually, wait_gone
from tests.soak.ledger import Ledger, ensure
from tests.soak.sandboxes import Actor

# Each thread goes on whatever happens, as long as the errors are ours.
SCRIPT = """
import json, threading, rock_gym
from rock_gym.errors import RockGymError
turns = 0
def churn(number):
    global turns
    while True:
        try:
            if number % 2:
                with rock_gym.SandboxPool(backend={backend!r}, max_size=2) as pool:
                    pool.execute(["true"] * 2)
            else:
                with rock_gym.Sandbox.start(backend={backend!r}) as sandbox:
                    sandbox.create_session().run("sleep 60 & sleep 0.01")
        except RockGymError:
            continue
        turns += 1
threads = [threading.Thread(target=churn, args=(n,), daemon=True) for n in range(3)]
for thread in threads: thread.start()
rock_gym.Sandbox.start(backend={backend!r}).delete()
while True:
    print(json.dumps(turns), flush=True)
    input()
"""


class Owners(Actor):
    """Starts owners and ends them."""

    def __init__(self, backend: str, seed: int, ledger: Ledger, pids: set[int]) -> None:
        super().__init__(backend, seed, ledger)
        self.pids = pids

    def actions(self) -> dict[Callable[[], None], int]:
        kinds: dict[Callable[[], None], int] = {self.fault_owner_killed: 3}
        if self.backend == "bubblewrap":
            kinds[self.fault_launcher_killed] = 1
        return kinds

    def _owner(self) -> Owner:
        owner = Owner(SCRIPT.format(backend=self.backend))
        self.pids.add(owner.process.pid)
        return owner

    def _pause(self) -> None:
        """Let some time pass, so that the moment of what follows is any."""
        threading.Event().wait(self.random.random() * 0.5)

    def _end(self, owner: Owner) -> None:
        """Kill it, and see that nothing of it is left."""
        os.kill(owner.process.pid, signal.SIGSTOP)  # so that nothing is begun after the look
        below = owner.below()
        self.pids.update(below)
        owner.kill()
        owner.process.wait(30)
        left = wait_gone(below, 60)
        ensure(not left, f"outlived their owner: {[command_line(pid) for pid in left]}")

    def fault_owner_killed(self) -> None:
        with self._owner() as owner:
            owner.tells()
            self._pause()
            self._end(owner)

    def fault_launcher_killed(self) -> None:
        """Its owner is told, and starts others with a new one."""
        with self._owner() as owner:
            owner.tells()
            self._pause()
            launchers = [
                pid for pid in descendants(owner.process.pid) if "/launcher " in command_line(pid)
            ]
            self.pids.update(launchers)
            for pid in launchers:
                os.kill(pid, signal.SIGKILL)
            owner.say("")
            before = owner.tells()

            def goes_on() -> bool:
                owner.say("")
                return bool(owner.tells() > before + 2)

            ensure(eventually(goes_on, 60), "an owner whose launcher was killed did not go on")
            self._end(owner)

    def close(self) -> None:
        """Each owner has ended within its turn."""
