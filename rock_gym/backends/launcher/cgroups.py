"""Control groups of sandboxes: one below our own group for each sandbox that has limits.

Version 1 has a hierarchy per controller, version 2 one for all; a machine may have both. Which
can be used is found out by making a group, not by looking at rights. A group's name holds the
launcher's process id and start time, so that what a killed launcher left can be told from what is
in use.
"""

import contextlib
import itertools
import os
from collections.abc import Iterable

PREFIX = "rock-gym"
CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
SWAP = ("memory.memsw.limit_in_bytes", "memory.swap.max")
PERIOD_US = 100_000
MIN_QUOTA_US = 1000


class Group:
    """The group of one sandbox: a directory per controller, the same one for all in version 2."""

    def __init__(self, paths: dict[str, str], version: int) -> None:
        self.paths = paths
        self.version = version

    def directories(self) -> list[str]:
        """Return its directories, each once."""
        return list(dict.fromkeys(self.paths.values()))

    def doors(self) -> list[str]:
        """Return the files through which a process of one thread joins it."""
        # In version 1 not cgroup.procs: to move all threads of a process at once, the kernel waits
        # until no process of the machine is in the midst of a fork, for milliseconds.
        name = "tasks" if self.version == 1 else "cgroup.procs"
        return [f"{directory}/{name}" for directory in self.directories()]

    def limit(self, limits: dict) -> None:
        """Set limits: ``memory`` in bytes with swap, ``pids``, ``cpus`` in seconds per second."""
        settings = _settings_1(limits) if self.version == 1 else _settings_2(limits)
        for controller, name, value in settings:
            path = f"{self.paths[controller]}/{name}"
            if name not in SWAP or os.path.exists(path):  # which not every kernel counts
                _write(path, value)

    def remove(self) -> bool:
        """Remove it. False when a process in it has not been reaped yet."""
        return all(_removed(directory) for directory in self.directories())


def _removed(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _settings_1(limits: dict) -> Iterable[tuple[str, str, str]]:
    if "memory" in limits:
        yield "memory", "memory.limit_in_bytes", str(limits["memory"])
        yield "memory", "memory.memsw.limit_in_bytes", str(limits["memory"])
    if "pids" in limits:
        yield "pids", "pids.max", str(limits["pids"])
    if "cpus" in limits:
        yield "cpu", "cpu.cfs_period_us", str(PERIOD_US)
        yield "cpu", "cpu.cfs_quota_us", str(_quota(limits["cpus"]))


def _settings_2(limits: dict) -> Iterable[tuple[str, str, str]]:
    if "memory" in limits:
        yield "memory", "memory.max", str(limits["memory"])
        yield "memory", "memory.swap.max", "0"
    if "pids" in limits:
        yield "pids", "pids.max", str(limits["pids"])
    if "cpus" in limits:
        yield "cpu", "cpu.max", f"{_quota(limits['cpus'])} {PERIOD_US}"


def _quota(cpus: float) -> int:
    return max(MIN_QUOTA_US, round(cpus * PERIOD_US))


def join(doors: Iterable[str]) -> None:
    """Move this process into groups; what it forks from then on is born there."""
    for door in doors:
        _write(door, "0")


class Cgroups:
    """Makes groups, where this process may.

    Args:
        memberships: The text of ``/proc/self/cgroup``.
        mounts: The text of ``/proc/self/mountinfo``.
    """

    def __init__(self, memberships: str, mounts: str) -> None:
        self._numbers = itertools.count()
        self._name = f"{PREFIX}-{os.getpid()}-{start_time(os.getpid())}"
        self._ready: dict[tuple[str, ...], Group] = {}
        self._leftovers: list[Group] = []
        self.places: dict[str, str] = {}
        places_1, places_2 = places_of(memberships, mounts)
        for controller, place in places_1.items():
            if controller in CONTROLLERS and _can_make(place, self._name):
                self.places[controller] = place
        self.version = 1
        if "memory" not in self.places and "pids" not in self.places:
            for place in places_2:
                if usable := _usable_2(place, self._name):
                    self.version, self.places = 2, dict.fromkeys(usable, place)
                    break
        self.swept = [name for place in set(self.places.values()) for name in _sweep(place)]

    @classmethod
    def here(cls) -> "Cgroups":
        """Look at this process's own groups."""
        with open("/proc/self/cgroup") as file:
            memberships = file.read()
        with open("/proc/self/mountinfo") as file:
            return cls(memberships, file.read())

    def create(self, limits: dict) -> Group:
        """Make a group with limits; raises OSError when the kernel refuses it."""
        controllers = self._controllers(limits)
        group = self._ready.pop(controllers, None) or self._make(controllers)
        try:
            group.limit(limits)
        except OSError:
            group.remove()
            raise
        return group

    def prepare(self, limits: dict) -> None:
        """Make the next group of that kind ahead of time: that is half of what it costs."""
        controllers = self._controllers(limits)
        if controllers not in self._ready:
            with contextlib.suppress(OSError):  # the next start will tell
                self._ready[controllers] = self._make(controllers)

    def _controllers(self, limits: dict) -> tuple[str, ...]:
        # A group's own count of CPU time is wanted in any case.
        needed = {"cpuacct", *("cpu" if limit == "cpus" else limit for limit in limits)}
        return tuple(controller for controller in self.places if controller in needed)

    def _make(self, controllers: tuple[str, ...]) -> Group:
        name = f"{self._name}-{next(self._numbers)}"
        paths = {controller: f"{self.places[controller]}/{name}" for controller in controllers}
        group = Group(paths, self.version)
        try:
            for directory in group.directories():
                os.mkdir(directory)
        except OSError:
            group.remove()
            raise
        return group

    def discard(self, group: Group) -> None:
        """Remove a group, at once or as soon as what ended in it has been reaped."""
        if not group.remove():
            self._leftovers.append(group)

    def retry(self) -> None:
        """Remove what could not be removed before."""
        if self._leftovers:
            self._leftovers = [group for group in self._leftovers if not group.remove()]

    def close(self) -> None:
        """Remove all that nothing lives in any more."""
        self._leftovers += self._ready.values()
        self._ready.clear()
        self.retry()


def start_time(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return ""


def places_of(memberships: str, mounts: str) -> tuple[dict[str, str], list[str]]:
    """Find where groups could be made: by controller in version 1, by preference in version 2.

    In version 2 a group with processes cannot have children with limits, unless it is the root, so
    the place beside our own group comes second: that is where a user's session manager puts us.
    """
    own: dict[str, str] = {}
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    places_1: dict[str, str] = {}
    places_2: list[str] = []
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        root, mount = fields.split()[3:5]
        kind, _, options = rest.split(None, 2)
        if kind == "cgroup":
            for controller in own.keys() & set(options.split(",")):
                if place := _below(mount, root, own[controller]):
                    places_1[controller] = place
        elif kind == "cgroup2" and "" in own:
            place = _below(mount, root, own[""])
            if place and not places_2:
                places_2 = [place]
                if place != mount:
                    places_2.append(os.path.dirname(place))
    return places_1, places_2


def _below(mount: str, root: str, path: str) -> str:
    """Return where a group's directory is, seen through a mount that shows the tree below root."""
    if root == "/":
        return (mount + path).rstrip("/")
    if path == root or path.startswith(f"{root}/"):
        return (mount + path[len(root) :]).rstrip("/")
    return ""


def _can_make(place: str, name: str) -> bool:
    probe = f"{place}/{name}-probe"
    try:
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError:
        return False
    return True


def _usable_2(place: str, name: str) -> list[str]:
    """Return the controllers that a child of a version 2 group would have."""
    if not os.access(f"{place}/cgroup.procs", os.W_OK) or not _can_make(place, name):
        return []
    wanted = ["memory", "pids", "cpu"]
    enabled = _read(f"{place}/cgroup.subtree_control").split()
    missing = [controller for controller in wanted if controller not in enabled]
    for controller in missing:
        # Refused where the group has processes of its own, or no such controller.
        with contextlib.suppress(OSError):
            _write(f"{place}/cgroup.subtree_control", f"+{controller}")
    enabled = _read(f"{place}/cgroup.subtree_control").split()
    return [controller for controller in wanted if controller in enabled]


def _sweep(place: str) -> "list[str]":
    """Remove groups whose launcher is gone. Those that are in use cannot be removed."""
    removed = []
    for name in os.listdir(place):
        words = name.split("-")
        if name.startswith(f"{PREFIX}-") and len(words) > 3 and words[2].isdigit():
            pid, started = int(words[2]), words[3]
            if start_time(pid) != started:
                with contextlib.suppress(OSError):
                    os.rmdir(f"{place}/{name}")
                    removed.append(f"{place}/{name}")
    return removed


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
