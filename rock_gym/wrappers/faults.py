"""Errors, as cassettes have them."""

from __future__ import annotations

from typing import Any

from rock_gym import errors
from rock_gym.envs.vector_slots import kind_of
from rock_gym.errors import RockGymError

__all__ = ["error_of", "fault_of"]


def fault_of(error: Exception) -> dict[str, str]:
    """Return what a cassette says of an error."""
    message = error.message if isinstance(error, RockGymError) else str(error)
    return {"kind": kind_of(error), "error": type(error).__name__, "message": message}


def error_of(fault: dict[str, Any]) -> RockGymError:
    """Return the error that was recorded, of one of the classes in ``rock_gym.errors`` alone."""
    name, message = str(fault.get("error")), str(fault.get("message"))
    if name not in errors.__all__ or name in ("CommandFailed", "FileError"):
        return RockGymError(f"{name}: {message}")  # of another kind, or with more to say than that
    kind: type[RockGymError] = getattr(errors, name)
    return kind(message)
