"""How tests are dealt out to processes that run at the same time, as ``make test`` has them.

Tests of one module on one backend stay together, as they share what was started for them: pools,
guests, images. What tests look at is their own process's: its descendants, the containers that
carry its id, names with its id in them. So any two groups may run side by side.
"""

from __future__ import annotations

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
# Tests whose share is the same on every backend: what GEM does by itself.
TOGETHER = ("test_every_id", "test_transcripts")
BACKEND_FIXTURES = ("backend", "kind")


def deal(items: list[pytest.Item]) -> None:
    """Name the group of each test, and order groups by when they should begin."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=_when)


def _group(item: pytest.Item) -> str:
    if item.path.stem in APART:
        return item.nodeid
    if item.path.stem in TOGETHER:
        return item.path.stem
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    backend = next((parameters[name] for name in BACKEND_FIXTURES if name in parameters), "")
    return f"{item.path.parent.name}/{item.path.stem} {backend}".strip()


def _when(item: pytest.Item) -> int:
    return LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)
