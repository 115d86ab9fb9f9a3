"""Where sandboxes come from: each backend starts containers and opens live processes in them."""

from __future__ import annotations

import atexit
import os
import threading

from rock_gym.backends.base import Backend
from rock_gym.errors import BackendUnavailable, ImageNotFound, SpecError
from rock_gym.spec import SandboxSpec

NAMES = ("bubblewrap", "docker")

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
        return _find_best(spec)
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


def _find_best(spec: SandboxSpec) -> Backend:
    """Return the embedded backend where it can do what is asked for, else Docker."""
    try:
        return get_backend("bubblewrap", spec)
    except (BackendUnavailable, ImageNotFound, SpecError) as error:
        embedded = error
    try:
        return get_backend("docker", spec)
    except (BackendUnavailable, ImageNotFound, SpecError) as error:
        both = f"embedded: {embedded.message}. Docker: {error.message}"
        # The one that could be used says what is wrong with what was asked for.
        kind = type(embedded if isinstance(error, BackendUnavailable) else error)
        raise kind(f"no backend can start this sandbox. {both}") from error


def _make(name: str) -> Backend:
    if name == "docker":
        from rock_gym.backends.docker import DockerBackend

        return DockerBackend()
    from rock_gym.backends.bubblewrap import BubblewrapBackend

    return BubblewrapBackend()


def _forget_after_fork() -> None:
    """Leave a parent's backends to the parent; a fork's copy has none of their descriptors."""
    global _owner
    if _owner != os.getpid():
        _owner = os.getpid()
        _backends.clear()
