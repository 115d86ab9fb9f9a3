"""How much memory there is for more sandboxes: the machine's, or what our own group may still have.

Limits of sandboxes are ceilings that few of them reach. What is really free says better whether
another one fits.
"""

from __future__ import annotations

from pathlib import Path

_KIB = 1024
# A group without a limit says so by a number no machine has.
_NO_LIMIT = 1 << 60


def available_bytes(root: Path = Path("/")) -> int:
    """Return the memory that could be used now without swapping or meeting a limit of ours.

    Args:
        root: Where ``proc`` and ``sys`` are found.
    """
    rooms = [_meminfo(root)["MemAvailable"]]
    rooms += [max(0, limit - used) for limit, used in _group_limits(root)]
    return min(rooms)


def total_bytes(root: Path = Path("/")) -> int:
    """Return the memory of the machine, or the limit that we are under, in bytes."""
    return min([_meminfo(root)["MemTotal"], *(limit for limit, _ in _group_limits(root))])


def _meminfo(root: Path) -> dict[str, int]:
    found = {}
    with (root / "proc/meminfo").open() as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable"):
                found[name] = int(rest.split()[0]) * _KIB
    return found


def _group_limits(root: Path) -> list[tuple[int, int]]:
    """Return limit and use of each group that this process is in, the outer ones included."""
    found = []
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            top, names = "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif not controllers:
            top, names = "", ("memory.max", "memory.current")
        else:
            continue
        base = root / "sys/fs/cgroup" / top
        group = base / path.lstrip("/")
        for directory in (group, *group.parents):
            if not directory.is_relative_to(base):
                break
            pair = _limit_and_use(directory / names[0], directory / names[1])
            if pair is not None:
                found.append(pair)
    return found


def _limit_and_use(limit: Path, used: Path) -> tuple[int, int] | None:
    try:
        text = limit.read_text().strip()
        if text == "max" or int(text) >= _NO_LIMIT:
            return None
        return int(text), int(used.read_text())
    except OSError:  # a container often sees its group's path but not the group
        return None
