"""The pools that a process shares by default, one for each kind of sandbox, and their end."""

from __future__ import annotations

import os
import threading

from rock_gym.pool import SandboxPool
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


def _forget_parents() -> None:
    # In a forked child: another thread may have held the lock, and the pools are the parent's.
    global _lock
    _lock = threading.Lock()
    _pools.clear()


os.register_at_fork(after_in_child=_forget_parents)
