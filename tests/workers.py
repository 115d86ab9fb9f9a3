"""How tests are dealt out to processes that run at the same time, as ``make test`` has them.

Tests of one module on one backend stay together, as they share what was started for them: pools,
guests, images. What tests look at is their own process's: its descendants, the containers that
carry its id, names with its id in them. So any two groups may run side by side.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest

# Each of these takes minutes: begun last, one would run on while the other processes are idle.
LONG = (
    "test_ordinary_user",
    "test_every_id",
    "test_sessions",
    "test_pool_many",
    "test_lifecycle",
    "test_images",
    "test_transcripts",
    "test_benchmarks",
)
# Tests that share nothing: each is a group.
APART = ("test_ordinary_user", "test_benchmarks")
# Tests that share servers, one for each backend.
SERVED = "server"
# Tests whose share is the same on every backend: what GEM does by itself.
TOGETHER = ("test_every_id", "test_transcripts")


def scheduler(config: pytest.Config, log: Any) -> Any:
    """What gives each process its next group, in the order of ``order``."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)


def group(nodeid: str) -> str:
    """Name the group of a test."""
    path, _, rest = nodeid.partition("::")
    name = PurePath(path).stem
    if name in APART:
        return nodeid
    if name in TOGETHER:
        return path
    parameters = rest.partition("[")[2]
    backend = "docker" if parameters.startswith("docker") else ""
    shared = PurePath(path).parent
    return f"{shared if shared.name == SERVED else path} {backend}"


def order(items: list[pytest.Item]) -> None:
    """Put first what takes longest."""
    items.sort(key=_when)


def _when(item: pytest.Item) -> int:
    if item.path.parent.name == SERVED:
        return 0
    return LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)
