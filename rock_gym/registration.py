"""Every id of GEM as a gymnasium id: strings and JSON only, so that importing costs little.

gymnasium reads a colon as the name of a module to import, so GEM's ids cannot be used as they are;
``make`` takes them verbatim. The catalog holds both ids of each environment.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from rock_gym.errors import SpecError
from rock_gym.gem import catalog

__all__ = ["GENERIC_ID", "make", "register_all"]

GENERIC_ID = "rock/Gem-v0"
_ENTRY_POINT = "rock_gym.envs.gem_env:GemEnv"
_VECTOR_ENTRY_POINT = "rock_gym.envs.vector_env:SandboxVectorEnv"


def register_all() -> None:
    """Register every environment with gymnasium. Twice is fine."""
    _register(GENERIC_ID, {})
    for record in catalog.RECORDS:
        _register(record.gym_id, {"gem_id": record.gem_id})


def make(gem_id: str, **kwargs: Any) -> gym.Env[str, str]:
    """Make an environment from a GEM id: what ``gymnasium.make`` returns for its gymnasium id.

    Args:
        gem_id: One of GEM's ids, such as ``"game:Sokoban-v0-easy"``, or one that a module named by
            ``imports=`` registers with GEM.
        **kwargs: As ``gymnasium.make`` and ``GemEnv`` take them.

    Raises:
        SpecError: If there is no such id in a category that GEM ships, and no ``imports=``.
    """
    if not isinstance(gem_id, str):
        raise SpecError(f"gem_id must be a string such as 'game:Sokoban-v0-easy', not {gem_id!r}")
    record = catalog.find(gem_id)
    if record is not None:
        return gym.make(record.gym_id, **kwargs)
    if not kwargs.get("imports"):
        catalog.check_known(
            gem_id,
            "For an environment of your own, name the module that registers it by imports=",
        )
    return gym.make(GENERIC_ID, gem_id=gem_id, **kwargs)


def _register(gym_id: str, kwargs: dict[str, Any]) -> None:
    # Registering an id again makes gymnasium warn, and a reload has nothing new to say.
    if gym_id not in gym.registry:
        gym.register(
            gym_id,
            entry_point=_ENTRY_POINT,
            vector_entry_point=_VECTOR_ENTRY_POINT,
            kwargs=kwargs,
        )
