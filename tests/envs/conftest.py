"""Fixtures for environments, in sandboxes and in faked ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rock_gym import SandboxPool
from rock_gym.envs import gem_env
from rock_gym.gem.places import with_guest
from rock_gym.spec import SandboxSpec
from tests.envs.fakes import Leases
from tests.envs.obedient import OBEDIENT


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> Leases:
    """Every GemEnv made in the test leases a fake worker."""
    leases = Leases()
    monkeypatch.setattr(gem_env, "lease_worker", leases.lease)
    monkeypatch.setattr(gem_env, "default_pool", leases.default_pool)
    monkeypatch.setattr(gem_env, "choose_backend", lambda spec, python, backend: (backend, spec))
    return leases


@pytest.fixture(scope="module")
def obedient_text() -> str:
    """What is written into the module that environments come from."""
    return OBEDIENT


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory, obedient_text: str) -> Path:
    """A directory with that module, which sandboxes can read."""
    directory = tmp_path_factory.mktemp("modules")
    directory.joinpath("obedient.py").write_text(obedient_text)
    # Sandboxes of root run as another user.
    for path in (directory, directory.parent):
        path.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def pool(backend: str, modules: Path) -> Iterator[SandboxPool]:
    """One for a module of tests, whose sandboxes show that directory."""
    spec = with_guest(SandboxSpec.of(read_only=(str(modules),)), backend=backend)
    with SandboxPool.from_spec(spec, backend=backend) as pool:
        yield pool
