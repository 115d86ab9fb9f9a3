"""Fixtures for environments whose sandboxes are faked."""

from __future__ import annotations

import pytest

from rock_gym.envs import gem_env
from tests.envs.fakes import Leases


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> Leases:
    """Every GemEnv made in the test leases a fake worker."""
    leases = Leases()
    monkeypatch.setattr(gem_env, "lease_worker", leases.lease)
    monkeypatch.setattr(gem_env, "default_pool", leases.default_pool)
    monkeypatch.setattr(gem_env, "choose_backend", lambda spec, python, backend: (backend, spec))
    return leases
