"""Everything a sandbox could leave behind, written down before and after."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rock_gym.backends.launcher import cgroups
from tests.contract.support import command_line, containers_of, descendants, host_mounts

# Ends with Python, and is the standard library's.
_PYTHONS_OWN = "multiprocessing.resource_tracker"


@dataclass(frozen=True)
class Inventory:
    """What this process and those it started hold. Taken when all backends are closed.

    Attributes:
        processes: Command lines of all below this process.
        threads: Names of this process's threads.
        descriptors: What its descriptors lead to.
        mounts: What is mounted on the machine.
        groups: Control groups of this process's launchers, and of its children's.
        containers: Containers of this process and of its children.
        directories: What lies in its directories for temporary and lasting files.
    """

    processes: Counter[str]
    threads: Counter[str]
    descriptors: Counter[str]
    mounts: Counter[str]
    groups: Counter[str]
    containers: Counter[str]
    directories: Counter[str]

    @classmethod
    def now(cls, owners: frozenset[int]) -> Inventory:
        """Look around.

        Args:
            owners: The process ids that launchers and owners of this soak have had.
        """
        gc.collect()
        return cls(
            processes=Counter(
                line
                for pid in descendants()
                if _PYTHONS_OWN not in (line := command_line(pid) or f"[{pid}]")
            ),
            threads=Counter(thread.name for thread in threading.enumerate()),
            descriptors=Counter(_descriptors()),
            mounts=Counter(host_mounts()),
            groups=Counter(_groups(owners | {os.getpid()})),
            containers=Counter(
                name for name, owner in containers_of().items() if owner in owners | {os.getpid()}
            ),
            directories=Counter(_files()),
        )

    def left_since(self, before: Inventory) -> list[str]:
        """What is here now and was not before, or more often."""
        return [
            f"{kind}: {thing} ({number} more)"
            for kind, now in vars(self).items()
            for thing, number in (now - getattr(before, kind)).items()
        ]

    def sizes(self) -> dict[str, int]:
        return {kind: counted.total() for kind, counted in vars(self).items()}


def _descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that the directory was read by
        # Of pipes and sockets only the number differs.
        found.append(target.partition(":[")[0])
    return found


def _groups(owners: frozenset[int]) -> list[str]:
    """Our control groups: their names say which launcher made them."""
    memberships = Path("/proc/self/cgroup").read_text()
    places_1, places_2 = cgroups.places_of(memberships, Path("/proc/self/mountinfo").read_text())
    return [
        f"{place}/{name}"
        for place in {*places_1.values(), *places_2}
        for name in os.listdir(place)
        if name.startswith(f"{cgroups.PREFIX}-") and int(name.split("-")[2]) in owners
    ]


def _files() -> list[str]:
    roots = [tempfile.gettempdir(), os.environ["ROCK_GYM_DATA"]]
    return [str(path) for root in roots for path in Path(root).rglob("*")]
