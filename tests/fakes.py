"""A backend whose sandboxes are not there: for faults and timing that cannot be had otherwise."""

from __future__ import annotations

import threading
from typing import Any

from rock_gym.backends.base import Capabilities
from rock_gym.errors import StartFailed
from rock_gym.spec import SandboxSpec


class FakeContainer:
    """A container of which only its life is real."""

    takes_sockets = True
    limits_disk = True

    def __init__(self, sandbox_id: str) -> None:
        self.id = sandbox_id
        self.alive = True

    def is_alive(self) -> bool:
        return self.alive

    def kill(self) -> None:
        self.alive = False


class FakeBackend:
    """Starts containers that do nothing, fails when told to, and notes how many start at once."""

    name = "fake"
    capabilities = Capabilities(
        sockets=True, control=True, memory="none", cpu="none", pids="none", disk="none"
    )

    def __init__(self) -> None:
        self.containers: list[FakeContainer] = []
        self.failures = 0
        self.tries = 0
        self.at_once = self.most_at_once = 0
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def check(self, spec: SandboxSpec) -> None:
        pass

    def start(self, spec: SandboxSpec, sandbox_id: str, timeout_s: float = 60.0) -> Any:
        with self._lock:
            self.tries += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            assert self.gate.wait(30)
            with self._lock:
                if self.failures:
                    self.failures -= 1
                    raise StartFailed("not today")
                self.containers.append(FakeContainer(sandbox_id))
                return self.containers[-1]
        finally:
            with self._lock:
                self.at_once -= 1

    def close(self) -> None:
        pass
