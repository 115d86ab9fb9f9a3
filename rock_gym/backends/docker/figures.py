"""What a container uses at the moment, without waiting for anything inside.

An engine's own answer may take a second, as it looks only so often. Where it is on this machine,
the container's control groups can be read instead; where it is not, there is nothing better.
"""

from __future__ import annotations

import contextlib
from typing import Any

from rock_gym.backends.base import Statistics
from rock_gym.backends.docker.engine import Engine
from rock_gym.backends.docker.files import space_of
from rock_gym.backends.docker.groups import Groups, Used
from rock_gym.backends.docker.link import Link
from rock_gym.errors import FileError, RockGymError, SandboxClosed, SandboxLost

_ANSWER_S = 1.0
# Where less than this is left of a storage driver's limit, which counts in blocks of its own, it is
# reached.
_LEFT_BYTES = 1 << 20


class Figures:
    """Reads the figures of one run of a container.

    Args:
        engine: Where it is.
        container: The engine's id of it.
        link: To ask how full its file systems are.
        groups: Its control groups.
        memory_limit: Its limit, if it has one.
        disk_limit: Its limit, if it has one.
        bounded: Where it can write, if that is memory alone.
    """

    def __init__(
        self,
        engine: Engine,
        container: str,
        link: Link,
        groups: Groups,
        *,
        memory_limit: int | None,
        disk_limit: int | None,
        bounded: tuple[str, ...],
    ) -> None:
        self._engine = engine
        self._container = container
        self._link = link
        self._memory_limit = memory_limit
        self._disk_limit = disk_limit
        self._bounded = bounded
        self._groups = groups

    def statistics(self) -> Statistics:
        """See ``Container.statistics``; raises OSError when the container has ended."""
        used = self._groups.used() or self._used_by_engine()
        return Statistics(
            cpu_s=used.cpu_s,
            memory_bytes=used.memory_bytes,
            memory_limit_bytes=self._memory_limit,
            disk_bytes=self._disk_bytes(),
            disk_limit_bytes=self._disk_limit,
            processes=used.processes,
            network_rx_bytes=used.network[0],
            network_tx_bytes=used.network[1],
        )

    def _used_by_engine(self) -> Used:
        figures = self._engine.statistics(self._container)
        memory: dict[str, Any] = figures.get("memory_stats", {})
        networks = (figures.get("networks") or {}).values()
        # Files that the kernel keeps in memory only while nobody needs it are not counted.
        idle = memory.get("stats", {})
        unneeded = idle.get("total_inactive_file", idle.get("inactive_file", 0))
        usage = memory.get("usage")
        return Used(
            cpu_s=figures.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0) / 1e9,
            memory_bytes=None if usage is None else max(0, usage - unneeded),
            processes=figures.get("pids_stats", {}).get("current"),
            network=(
                sum(each["rx_bytes"] for each in networks),
                sum(each["tx_bytes"] for each in networks),
            ),
        )

    def is_full(self) -> bool:
        """Whether it has written what it may, of which not all file systems tell. Never raises."""
        assert self._disk_limit is not None
        with contextlib.suppress(RockGymError):
            return self._disk_limit - self._engine.written_bytes(self._container) < _LEFT_BYTES
        return False

    def _disk_bytes(self) -> int | None:
        """Add up what it has written; None when its first process does not answer."""
        if not self._bounded:
            return self._engine.written_bytes(self._container)
        with contextlib.suppress(SandboxLost, SandboxClosed, FileError):
            spaces = [space_of(self._link, place, _ANSWER_S) for place in self._bounded]
            return sum(space.total_bytes - space.free_bytes for space in spaces)
        return None
