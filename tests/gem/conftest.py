"""Pools of each backend that is present, and environments in their sandboxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rock_gym.gem.places import with_guest
from rock_gym.gem.worker import EnvConfig, EnvWorker, lease_worker
from rock_gym.pool import SandboxPool
from rock_gym.spec import SandboxSpec
from tests.conftest import BACKENDS, required, why_unusable
from tests.gem.local import STUB, have_stubs

USER_ENVS = str(Path(__file__).with_name("user_envs"))


def make_pool(kind: str, **options: Any) -> SandboxPool:
    spec = SandboxSpec.of(read_only=(STUB, USER_ENVS), **options)
    return SandboxPool.from_spec(with_guest(spec, backend=kind), backend=kind)


def backend_or_skip(name: str) -> str:
    """A backend's name, or no test where it is not present and need not be."""
    reason = why_unusable(name)
    if reason is not None:
        (pytest.fail if name in required() else pytest.skip)(f"{name}: {reason}")
    return name


@pytest.fixture(scope="module", params=BACKENDS)
def kind(request: pytest.FixtureRequest) -> str:
    """What sandboxes are made of, each in turn."""
    return backend_or_skip(request.param)


@pytest.fixture(scope="module")
def shared_pool(kind: str) -> Iterator[Any]:
    """One for all tests of a module: a guest takes a second to come up."""
    with make_pool(kind) as pool:
        yield pool


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests that come up at once, with a stub in the place of GEM."""
    have_stubs(monkeypatch)


@pytest.fixture
def own_pool(kind: str) -> Iterator[Any]:
    """One for a test that kills what is in it."""
    with make_pool(kind) as pool:
        yield pool


Lease = Callable[..., EnvWorker]


def _leases(pool: Any) -> Iterator[Lease]:
    with ExitStack() as stack:

        def lease(gem_id: str, envs_per_sandbox: int | None = 64, **options: Any) -> EnvWorker:
            if gem_id.startswith("probe:"):
                options = {"imports": ["probe_envs"], "python_path": [USER_ENVS], **options}
            worker = lease_worker(EnvConfig(gem_id, **options), pool, envs_per_sandbox)
            stack.callback(worker.close)
            return worker

        yield lease


@pytest.fixture
def lease(shared_pool: Any) -> Iterator[Lease]:
    """Lease workers for GEM ids from the module's pool."""
    yield from _leases(shared_pool)


@pytest.fixture
def lease_own(own_pool: Any) -> Iterator[Lease]:
    """Lease workers from a pool of the test's own."""
    yield from _leases(own_pool)
