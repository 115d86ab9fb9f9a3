"""Containers that outlive a killed server, and how the next one finds them.

Such a container ends at a deadline, which somebody has to put off as long as the server lives.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Collection

from rock_gym.backends.base import Capabilities, Container
from rock_gym.backends.docker import DockerBackend, settings
from rock_gym.backends.docker.container import LEASE_S, DockerContainer
from rock_gym.errors import SandboxClosed, SandboxLost
from rock_gym.spec import SandboxSpec

RENEW_S = LEASE_S / 3


class LeasingBackend:
    """A Docker backend that remembers what it has started, to renew it. See ``Backend``."""

    name = "docker"

    def __init__(self, docker: DockerBackend) -> None:
        self.docker = docker
        self._lock = threading.Lock()
        self._held: weakref.WeakSet[DockerContainer] = weakref.WeakSet()

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do; see ``Backend.capabilities``."""
        return self.docker.capabilities

    def check(self, spec: SandboxSpec) -> None:
        """Refuse what can never be started; see ``Backend.check``."""
        self.docker.check(spec)

    def start(self, spec: SandboxSpec, sandbox_id: str, timeout_s: float = 60.0) -> Container:
        """Start a container; see ``Backend.start``."""
        container = self.docker.start(spec, sandbox_id, timeout_s)
        assert isinstance(container, DockerContainer)
        return self._hold(container)

    def adopt(
        self, sandbox_id: str, *, stopped: bool = False
    ) -> tuple[SandboxSpec, DockerContainer]:
        """Take over a container that another server left; see ``DockerBackend.adopt``."""
        spec, container = self.docker.adopt(sandbox_id, stopped=stopped)
        container.renew(LEASE_S)
        return spec, self._hold(container)

    def remove_left(self, owners: Collection[str], kept: Collection[str]) -> None:
        """Remove what earlier servers left: spares, and what was on its way up.

        Args:
            owners: Which processes they were.
            kept: Ids of sandboxes that were taken over.
        """
        engine = self.docker.engine
        for found in engine.list(settings.LABEL_LEASE):
            labels = found["Labels"]
            if labels[settings.LABEL_OWNER] in owners and labels[settings.LABEL] not in kept:
                engine.remove(found["Id"])

    def _hold(self, container: DockerContainer) -> DockerContainer:
        with self._lock:
            self._held.add(container)
        return container

    def renew(self) -> None:
        """Put the deadline of everything that lives off."""
        with self._lock:
            held = tuple(self._held)
        for container in held:
            with contextlib.suppress(SandboxLost, SandboxClosed):  # whoever uses it is told
                if container.is_alive():
                    container.renew(LEASE_S)

    def close(self) -> None:
        """Let go of the engine; see ``Backend.close``."""
        self.docker.close()
