"""Where sandboxes come from: each backend starts containers and opens live processes in them."""

from __future__ import annotations

import atexit
import os
import threading

from rock_gym.backends.base import Backend
from rock_gym.errors import SpecError
from rock_gym.spec import SandboxSpec

NAMES = ("bubblewrap",)

_lock = threading.Lock()
_backends: dict[str, Backend] = {}
_owner = os.getpid()


def get_backend(name: str, spec: SandboxSpec) -> Backend:
    """Return this process's backend of a name, made on first use.

    Args:
        name: ``"auto"`` or one of NAMES.
        spec: What it is to start; ``"auto"`` looks at its image.

    Raises:
        SpecError: If there is no such backend, or it cannot do what the spec asks for.
        ImageNotFound: If it has no such image.
        BackendUnavailable: If this machine cannot run it.
    """
    if name == "auto":
        name = "bubblewrap"
    if name not in NAMES:
        raise SpecError(f"no backend {name!r}; there are 'auto' and {', '.join(map(repr, NAMES))}")
    with _lock:
        _forget_after_fork()
        if name not in _backends:
            _backends[name] = _make(name)
        backend = _backends[name]
    backend.check(spec)
    return backend


def close_backends() -> None:
    """End all sandboxes of this process's own backends. Twice is fine."""
    with _lock:
        _forget_after_fork()
        backends = list(_backends.values())
        _backends.clear()
    for backend in backends:
        backend.close()


atexit.register(close_backends)


def _make(name: str) -> Backend:
    from rock_gym.backends.bubblewrap import BubblewrapBackend

    return BubblewrapBackend()


def _forget_after_fork() -> None:
    """Leave a parent's backends to the parent; a fork's copy has none of their descriptors."""
    global _owner
    if _owner != os.getpid():
        _owner = os.getpid()
        _backends.clear()
