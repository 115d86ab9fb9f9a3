"""Embedded sandboxes that run on this machine, whoever started them, as ``/proc`` tells of them.

Nobody keeps a list of them: they are processes below their owner's launcher, and end with it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from rock_gym.backends.figures import read_text

__all__ = ["Running", "list_running"]

_FIRST_PROCESS = ["/.rock-gym-init"]


@dataclass(frozen=True, slots=True)
class Running:
    """An embedded sandbox.

    Attributes:
        pid: Its first process, as seen from here. To kill it ends the sandbox.
        owner_pid: The process that started it.
        owner: The command line of that.
        age_s: For how many seconds it has been running.
        processes: How many processes are in it.
        memory_bytes: What these have resident; what they share counts for each.
    """

    pid: int
    owner_pid: int
    owner: str
    age_s: float
    processes: int
    memory_bytes: int


def list_running() -> list[Running]:
    """Return the embedded sandboxes of this machine, oldest first.

    Of other users' sandboxes those are seen whose processes the system shows.
    """
    seen = {pid: _Process(pid) for pid in map(int, filter(str.isdigit, os.listdir("/proc")))}
    found = (_look(process, seen) for process in seen.values() if process.words == _FIRST_PROCESS)
    return sorted(filter(None, found), key=lambda each: -each.age_s)


class _Process:
    """What ``/proc`` says of a process; nothing, once it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.words: list[str] = []
        self.parent, self.started, self.memory_bytes, self.namespace = 0, 0.0, 0, ""
        try:
            self.words = read_text(f"/proc/{pid}/cmdline").split("\0")[:-1]
            # Behind the name, which may hold anything: the state, the parent, and much more.
            fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
            self.parent = int(fields[1])
            self.started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
            self.memory_bytes = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
            self.namespace = os.readlink(f"/proc/{pid}/ns/pid")
        except OSError:
            return  # it has ended, or is another user's


def _look(first: _Process, seen: dict[int, _Process]) -> Running | None:
    # Above it is bwrap, and above that the launcher, unless a process only took the name.
    bwrap = seen.get(first.parent)
    launcher = seen.get(bwrap.parent) if bwrap is not None else None
    if launcher is None or not any(word.endswith("/backends/launcher") for word in launcher.words):
        return None
    inside = [each for each in seen.values() if each.namespace == first.namespace != ""]
    owner = seen.get(launcher.parent)
    return Running(
        pid=first.pid,
        owner_pid=launcher.parent,
        owner=" ".join(owner.words) if owner is not None else "",
        age_s=round(time.clock_gettime(time.CLOCK_BOOTTIME) - first.started, 1),
        processes=len(inside) or 1,
        memory_bytes=sum(each.memory_bytes for each in inside) or first.memory_bytes,
    )
