"""The control groups of a container, as files of this machine, where the engine is on it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from rock_gym.backends.base import LimitHits
from rock_gym.backends.docker.engine import Engine
from rock_gym.backends.figures import network_bytes, read_text
from rock_gym.backends.launcher.cgroups import places_of

_CONTROLLERS = ("memory", "cpuacct", "pids")


@dataclass(frozen=True, slots=True)
class Used:
    """What a container uses; of its network what came and what went."""

    cpu_s: float | None
    memory_bytes: int | None
    processes: int | None
    network: tuple[int, int]


class Groups:
    """Reads them, once they are asked for.

    Args:
        engine: Where the container is.
        container: The engine's id of it.
    """

    def __init__(self, engine: Engine, container: str) -> None:
        self._engine = engine
        self._container = container
        self._lock = threading.Lock()
        self._pid = 0
        self._directories: dict[str, str] | None = None

    def _found(self) -> dict[str, str]:
        """Return its directories by controller; none where they cannot be seen."""
        with self._lock:
            if self._directories is None:
                told = self._engine.inspect(self._container)
                if told is None:
                    raise ProcessLookupError("it was removed")
                self._pid = told["State"]["Pid"]
                self._directories = _directories(self._container, self._pid)
            return self._directories

    def used(self) -> Used | None:
        """Return what it uses; None where that cannot be seen.

        Raises:
            OSError: If it has ended.
            RockGymError: If the engine does not say where to look.
        """
        found = self._found()
        if not found:
            return None
        memory, cpu = found["memory"], found["cpuacct"]
        if os.path.exists(f"{memory}/memory.current"):
            current, idle = read_text(f"{memory}/memory.current"), "inactive_file"
            cpu_s = _word(read_text(f"{cpu}/cpu.stat"), "usage_usec") / 1e6
        else:
            current, idle = read_text(f"{memory}/memory.usage_in_bytes"), "total_inactive_file"
            cpu_s = int(read_text(f"{cpu}/cpuacct.usage")) / 1e9
        # Files that the kernel keeps in memory only while nobody needs it are not counted.
        unneeded = _word(read_text(f"{memory}/memory.stat"), idle)
        return Used(
            cpu_s=cpu_s,
            memory_bytes=max(0, int(current) - unneeded),
            processes=len(read_text(f"{found['pids']}/cgroup.procs").split()),
            network=network_bytes(self._pid),
        )

    def hits(self) -> LimitHits:
        """Return how often it has run into limits; raises as ``used``, and is 0 where unseen."""
        found = self._found()
        if not found:
            return LimitHits()
        name = "memory.events"
        if not os.path.exists(f"{found['memory']}/{name}"):
            name = "memory.oom_control"
        return LimitHits(
            oom=_word(read_text(f"{found['memory']}/{name}"), "oom_kill"),
            pids=_word(read_text(f"{found['pids']}/pids.events"), "max"),
        )


def _directories(container: str, pid: int) -> dict[str, str]:
    try:
        memberships = read_text(f"/proc/{pid}/cgroup")
        # Else it is a process of another machine, and that number is somebody else's here.
        if not pid or container not in memberships:
            return {}
        found, version_2 = places_of(memberships, read_text("/proc/self/mountinfo"))
    except OSError:
        return {}
    if "memory" not in found and version_2:
        found = dict.fromkeys(_CONTROLLERS, version_2[0])
    usable = all(
        name in found and os.access(f"{found[name]}/cgroup.procs", os.R_OK) for name in _CONTROLLERS
    )
    return found if usable else {}


def _word(text: str, name: str) -> int:
    words = text.split()
    return int(words[words.index(name) + 1]) if name in words else 0
