"""What an embedded sandbox uses and which limits it has run into, read from outside.

Nothing inside is asked, so nothing inside can delay or forge it: the files of its control groups
where it has some, the process table that its own ``/proc`` shows, and the file system that it
writes to, both seen through its first process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rock_gym.backends.base import LimitHits, Statistics

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FULL_BLOCKS = 16
_FULL_FILES = 1
_COUNTER_BYTES = 512

# Where a program is told of the limit a little before it is reached: it need not be the one that
# would have taken the last.
_NEAR_LIMIT = 2


@dataclass(frozen=True, slots=True)
class _Usage:
    """What one process uses: seconds, threads, and bytes that are its alone."""

    cpu_s: float
    threads: int
    private_bytes: int


class Figures:
    """Reads the figures of one running sandbox.

    Args:
        pid: Its first process.
        groups: Its control groups, by controller.
        disk: A directory inside that lies on the file system it writes to.
        memory_limit: Its limit of memory, if a control group holds one.
        pids_limit: Its limit of processes and threads.
    """

    def __init__(
        self,
        pid: int,
        groups: Mapping[str, str],
        disk: str,
        memory_limit: int | None,
        pids_limit: int,
    ) -> None:
        self._root = f"/proc/{pid}/root"
        self._pid = pid
        self._groups = groups
        self._disk = disk
        self._memory_limit = memory_limit
        self._pids_limit = pids_limit
        self._version = 1 if "cpuacct" in groups else 2
        self._counters = {
            name: os.open(path, os.O_RDONLY)
            for name, path in self._counter_paths()
            if os.path.exists(path)
        }

    def _counter_paths(self) -> Iterator[tuple[str, str]]:
        if "memory" in self._groups:
            name = "memory.oom_control" if self._version == 1 else "memory.events"
            yield "oom_kill", f"{self._groups['memory']}/{name}"
        if "pids" in self._groups:
            yield "max", f"{self._groups['pids']}/pids.events"

    def __del__(self) -> None:
        # Not earlier: another thread may be reading.
        for fd in getattr(self, "_counters", {}).values():
            os.close(fd)

    def limit_hits(self) -> LimitHits:
        """See ``Container.limit_hits``."""
        if not self._counters:
            return LimitHits()
        return LimitHits(oom=self._counter("oom_kill"), pids=self._counter("max"))

    def _counter(self, name: str) -> int:
        if name not in self._counters:
            return 0
        try:
            words = os.pread(self._counters[name], _COUNTER_BYTES, 0).decode().split()
            return int(words[words.index(name) + 1])
        except (OSError, KeyError, ValueError):  # it ends meanwhile
            return 0

    def limits_reached(self) -> frozenset[str]:
        """See ``Container.limits_reached``."""
        reached = set()
        with contextlib.suppress(OSError):
            disk = os.statvfs(self._root + self._disk)
            if disk.f_bavail < _FULL_BLOCKS or disk.f_favail < _FULL_FILES:
                reached.add("disk")
        if "pids" not in self._groups:
            threads = sum(usage.threads for usage in self._usages())
            if threads >= self._pids_limit - _NEAR_LIMIT:
                reached.add("pids")
        return frozenset(reached)

    def statistics(self) -> Statistics:
        """See ``Container.statistics``; raises OSError when the sandbox has ended."""
        usages = list(self._usages())
        disk = os.statvfs(self._root + self._disk)
        disk_bytes = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        received, sent = network_bytes(self._pid)
        memory_bytes = self._group_memory()
        if memory_bytes is None:
            memory_bytes = sum(usage.private_bytes for usage in usages) + disk_bytes
        cpu_s = self._group_cpu()
        return Statistics(
            cpu_s=sum(usage.cpu_s for usage in usages) if cpu_s is None else cpu_s,
            memory_bytes=memory_bytes,
            memory_limit_bytes=self._memory_limit,
            disk_bytes=disk_bytes,
            disk_limit_bytes=disk.f_blocks * disk.f_frsize,
            processes=len(usages),
            network_rx_bytes=received,
            network_tx_bytes=sent,
        )

    def _usages(self) -> Iterator[_Usage]:
        # Its own /proc lists its own processes alone; the host's may list thousands.
        try:
            names = os.listdir(f"{self._root}/proc")
        except OSError:
            return
        for name in names:
            if name.isdigit() and (usage := _usage(f"{self._root}/proc/{name}")):
                yield usage

    def _group_memory(self) -> int | None:
        if "memory" not in self._groups:
            return None
        name = "memory.usage_in_bytes" if self._version == 1 else "memory.current"
        return int(read_text(f"{self._groups['memory']}/{name}"))

    def _group_cpu(self) -> float | None:
        if "cpuacct" in self._groups:
            return int(read_text(f"{self._groups['cpuacct']}/cpuacct.usage")) / 1e9
        for path in self._groups.values():
            words = read_text(f"{path}/cpu.stat").split()
            return int(words[words.index("usage_usec") + 1]) / 1e6
        return None


def network_bytes(pid: int) -> tuple[int, int]:
    """Return how many bytes have come and gone over a process's network, loopback apart."""
    received = sent = 0
    for line in read_text(f"/proc/{pid}/net/dev").splitlines()[2:]:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            words = numbers.split()
            received, sent = received + int(words[0]), sent + int(words[8])
    return received, sent


def _usage(directory: str) -> _Usage | None:
    try:
        # The name of the program stands in parentheses and may hold anything.
        fields = read_text(f"{directory}/stat").rpartition(")")[2].split()
        pages = read_text(f"{directory}/statm").split()
    except OSError:
        return None
    return _Usage(
        cpu_s=sum(map(int, fields[11:15])) * _TICK_S,
        threads=int(fields[17]),
        private_bytes=(int(pages[1]) - int(pages[2])) * _PAGE_BYTES,
    )


def read_text(path: str) -> str:
    """Return what a file of the kernel's says, whatever bytes names in it consist of."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
