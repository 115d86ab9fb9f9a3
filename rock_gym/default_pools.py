"""The pools that a process shares by default, one for each kind of sandbox, and their end."""

from __future__ import annotations

import atexit
import threading

from rock_gym.pool import SandboxPool, live_pools
from rock_gym.spec import SandboxSpec

_pools: dict[tuple[str, SandboxSpec], SandboxPool] = {}
_lock = threading.Lock()


def default_pool(backend: str, spec: SandboxSpec) -> SandboxPool:
    """Return this process's pool for a kind of sandbox, made on first use.

    Raises:
        SpecError: As ``SandboxPool``.
        ImageNotFound: As ``SandboxPool``.
        BackendUnavailable: As ``SandboxPool``.
    """
    with _lock:
        pool = _pools.get((backend, spec))
        if pool is None or pool.closed:
            pool = _pools[backend, spec] = SandboxPool.from_spec(spec, backend=backend)
        return pool


def close_default_pools() -> None:
    """End the default pools and all their sandboxes; they are made anew when they are needed."""
    with _lock:
        pools = list(_pools.values())
        _pools.clear()
    for pool in pools:
        pool.close()


@atexit.register
def _close_all() -> None:
    # Registered after the backends' own, and so called before it.
    _pools.clear()
    for pool in tuple(live_pools):
        pool.close()
