"""What every test stands on: the backends that are present, and a check that nothing leaks.

A backend that this machine lacks is skipped with its reason, unless ``ROCK_GYM_REQUIRE`` (names
with commas between) says that it must be here: then its absence fails. CI requires them all.
"""

from __future__ import annotations

import functools
import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from rock_gym.default_pools import close_default_pools
from rock_gym.errors import BackendUnavailable
from tests import workers
from tests.contract.support import (
    command_line,
    containers_of,
    descendants,
    eventually,
    host_mounts,
)

BACKENDS = ("bubblewrap", "docker")

# Kept for the life of the process on purpose: the helpers of a backend, and what the standard
# library starts for multiprocessing.
RESIDENT_PROCESSES = (
    "launcher",
    "docker/keeper.py",
    "rock-gym-forker",
    "multiprocessing.resource_tracker",
    "multiprocessing.forkserver",
)
RESIDENT_THREADS = ("rock-gym-backend",)
FD_SLACK = 16


def required() -> frozenset[str]:
    """The backends that must be present."""
    names = os.environ.get("ROCK_GYM_REQUIRE", "").split(",")
    return frozenset(name.strip() for name in names if name.strip())


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a requirement that no test would look at."""
    unknown = required() - set(BACKENDS)
    if unknown:
        raise pytest.UsageError(
            f"ROCK_GYM_REQUIRE names {sorted(unknown)}; known: {', '.join(BACKENDS)}"
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal the tests out, where several processes run them."""
    return workers.scheduler(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order them for that, after pytest has put those together that share a session's fixture."""
    if hasattr(config, "workerinput"):
        workers.order(items)


@functools.cache
def why_unusable(name: str) -> str | None:
    """Why a backend cannot be used here, or None. Tried by starting a sandbox."""
    from rock_gym import Sandbox

    try:
        with Sandbox.start(backend=name):
            return None
    except BackendUnavailable as error:
        return str(error)


@pytest.fixture(params=BACKENDS, scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend's name in turn."""
    name: str = request.param
    reason = why_unusable(name)
    if reason is not None and name in required():
        pytest.fail(f"{name} is required here, but: {reason}", pytrace=False)
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    return name


@pytest.fixture
def start(backend: str) -> Iterator[Callable[..., Any]]:
    """Start sandboxes on the backend under test; all are stopped after the test."""
    from rock_gym import Sandbox

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Sandbox.start(backend=backend, **options))


@pytest.fixture
def sandbox(start: Callable[..., Any]) -> Any:
    """A fresh sandbox."""
    return start()


@dataclass(frozen=True)
class Holdings:
    """What this process holds that a sandbox could have left behind."""

    processes: frozenset[tuple[int, str]]
    threads: frozenset[tuple[int | None, str]]
    containers: frozenset[str]
    mounts: tuple[str, ...]
    descriptors: int

    @classmethod
    def now(cls) -> Holdings:
        gc.collect()
        return cls(
            processes=frozenset(
                (pid, command)
                for pid in descendants()
                if not any(name in (command := command_line(pid)) for name in RESIDENT_PROCESSES)
            ),
            threads=frozenset(
                (thread.ident, thread.name)
                for thread in threading.enumerate()
                if thread.name.startswith(("rock-gym", "rock_gym"))
                and not thread.name.startswith(RESIDENT_THREADS)
            ),
            containers=frozenset(containers_of(os.getpid())),
            mounts=host_mounts(),
            descriptors=len(os.listdir("/proc/self/fd")),
        )

    def left_since(self, before: Holdings) -> list[str]:
        """What is here now and was not before, in words."""
        left = [f"process {pid}: {cmd}" for pid, cmd in self.processes - before.processes]
        left += [f"thread {name}" for _, name in self.threads - before.threads]
        left += [f"container {name}" for name in self.containers - before.containers]
        left += [f"mount {line}" for line in set(self.mounts) - set(before.mounts)]
        if self.descriptors > before.descriptors + FD_SLACK:
            left.append(f"descriptors: {before.descriptors} before, {self.descriptors} after")
        return left


def _check_leaks() -> Iterator[None]:
    before = Holdings.now()
    yield
    # Stopping kills and does not wait, so the last of it may take a moment.
    if not eventually(lambda: not Holdings.now().left_since(before)):
        pytest.fail("left behind:\n" + "\n".join(Holdings.now().left_since(before)), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind_by_the_session() -> Iterator[None]:
    """The whole run leaves no process, mount, thread or heap of descriptors."""
    yield from _check_leaks()


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind_by_the_module(
    nothing_left_behind_by_the_session: None,
) -> Iterator[None]:
    """Neither does any module."""
    yield from _check_leaks()


@pytest.fixture(scope="module", autouse=True)
def default_pools_end_with_the_module(nothing_left_behind_by_the_module: None) -> Iterator[None]:
    """What tests have made without a pool of their own goes before leaks are looked for."""
    yield
    close_default_pools()
