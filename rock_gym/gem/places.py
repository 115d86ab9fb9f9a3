"""Where environments run: on which backend, by which interpreter, and how many in a sandbox."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rock_gym.backends import get_backend
from rock_gym.errors import (
    BackendUnavailable,
    EnvUnavailable,
    ImageNotFound,
    RockGymError,
    SpecError,
)
from rock_gym.gem import catalog
from rock_gym.gem.image import GEM_IMAGE, image_python
from rock_gym.gem.interpreter import GuestPython, find_guest_python

if TYPE_CHECKING:
    from rock_gym.gem.config import EnvConfig
    from rock_gym.gem.leasing import Pool
    from rock_gym.spec import SandboxSpec

__all__ = ["choose_backend", "python_for", "seats_per_sandbox", "with_guest"]

# Where sandboxes show nothing of this machine, GEM comes with the image.
_WITH_IMAGES = ("docker",)


def with_guest(
    spec: SandboxSpec, guest_python: str | None = None, backend: str = "bubblewrap"
) -> SandboxSpec:
    """Return a sandbox spec in which guests find what they need.

    That is the interpreter of this machine, shown read-only, or where sandboxes start from images
    the image that GEM is in.

    Args:
        spec: What the sandbox is otherwise like.
        guest_python: As for ``EnvConfig``.
        backend: What is to start it.

    Raises:
        EnvUnavailable: If there is no interpreter with GEM; says how to install one.
    """
    if backend in _WITH_IMAGES:
        plain = spec.image is None and spec.dockerfile is None
        return replace(spec, image=GEM_IMAGE) if plain else spec
    needed = find_guest_python(guest_python).read_only
    return replace(spec, read_only=tuple(sorted({*spec.read_only, *needed})))


def choose_backend(
    spec: SandboxSpec, guest_python: str | None = None, backend: str = "auto"
) -> tuple[str, SandboxSpec]:
    """Choose where environments run, and return its name with the spec for it.

    Raises:
        SpecError: If no backend can do what the spec asks for.
        ImageNotFound: If none has the image.
        BackendUnavailable: If this machine can run none of them.
        EnvUnavailable: If there is no interpreter with GEM for any.
    """
    if backend != "auto":
        return backend, with_guest(spec, guest_python, backend)
    embedded = _why_not("bubblewrap", spec, guest_python)
    if embedded is None:
        return "bubblewrap", with_guest(spec, guest_python)
    docker = _why_not("docker", spec, guest_python)
    if docker is None:
        return "docker", with_guest(spec, guest_python, "docker")
    kind = type(embedded if isinstance(docker, BackendUnavailable) else docker)
    raise kind(
        "no backend can run this environment. "
        f"embedded: {embedded.message}. Docker: {docker.message}"
    )


def _why_not(name: str, spec: SandboxSpec, guest_python: str | None) -> RockGymError | None:
    try:
        get_backend(name, with_guest(spec, guest_python, name))
    except (BackendUnavailable, EnvUnavailable, ImageNotFound, SpecError) as error:
        return error
    return None


def python_for(config: EnvConfig, pool: Pool) -> GuestPython:
    """Return what an environment runs on in a pool's sandboxes.

    Raises:
        EnvUnavailable: If there is no interpreter with GEM.
    """
    if pool.backend in _WITH_IMAGES:
        return image_python(config.guest_python)
    return find_guest_python(config.guest_python)


def seats_per_sandbox(gem_id: str, wanted: int | None = None) -> int:
    """Return how many environments share a sandbox.

    Args:
        gem_id: What they are.
        wanted: What the user asked for, or None.

    Raises:
        SpecError: If that makes no sense.
    """
    record = catalog.find(gem_id)
    capacity = wanted
    if capacity is None:
        capacity = record.envs_per_sandbox if record is not None else 1
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
        raise SpecError(f"envs_per_sandbox must be a number from 1, not {wanted!r}")
    return capacity
