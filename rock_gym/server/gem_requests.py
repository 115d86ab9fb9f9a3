"""What clients say to the GEM API, and what they are told.

A field that is not here is refused: a misspelt one would be a wish that silently is not met.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "CloseRequest",
    "ListRequest",
    "ListResult",
    "MakeRequest",
    "MakeResult",
    "Named",
    "ResetRequest",
    "ResetResult",
    "ResourcesRequest",
    "StepRequest",
    "StepResult",
]

Id = Annotated[str, Meta(min_length=1, max_length=256)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1)]
# gymnasium's generators take any whole number from 0.
Seed = Annotated[int, Meta(ge=0)]
EnvNumbers = Annotated[list[int], Meta(min_length=1)]


class ResourcesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The ceilings of the sandbox that the environment shares with others of the same."""

    cpu: float | str | None = None
    memory: str | int | None = None


class MakeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Make an environment, or with ``num_envs`` or ``env_ids`` a batch of them.

    Attributes:
        env_id: A GEM id, such as ``"game:Sokoban-v0-easy"``.
        env_ids: For a batch, one id for each environment, or for each group.
        num_envs: For a batch, how many.
        group_size: For a batch, how many environments in a row share each seed.
        autoreset_mode: For a batch, ``"NextStep"``, ``"SameStep"`` or ``"Disabled"``.
        max_episode_steps: For a batch, after how many steps an episode is truncated.
        envs_per_process: For a batch, how many environments share a process, for those that only
            parse an action.
        kwargs: What goes on to ``gem.make``.
        dataset: Rows, for environments that are built on data.
        observation: ``"raw"`` for GEM's own observation, which most games' info completes by a
            prefix and a suffix; ``"text"`` for all of it, as an agent should read it.
        step_timeout: Seconds that a step may take.
        reset_timeout: Seconds that a reset may take.
        envs_per_sandbox: How many environments may share a sandbox.
        cpus: The sandbox's ceiling on CPUs.
        memory: Its ceiling on memory.
        resources: The same two, as ROCK's documentation has them.
        auto_clear_time_minutes: After how long without use it is closed.
    """

    env_id: Id | None = None
    env_ids: Annotated[list[Id], Meta(min_length=1)] | None = None
    num_envs: Count | None = None
    group_size: Count = 1
    autoreset_mode: str = "NextStep"
    max_episode_steps: Count | None = None
    envs_per_process: Count = 1
    kwargs: dict[str, Any] = {}
    dataset: list[dict[str, Any]] | None = None
    observation: Literal["raw", "text"] = "raw"
    step_timeout: Seconds = 30.0
    reset_timeout: Seconds = 60.0
    envs_per_sandbox: Count | None = None
    cpus: float | str | None = None
    memory: str | int | None = None
    resources: ResourcesRequest | None = None
    auto_clear_time_minutes: Annotated[float, Meta(gt=0)] | None = None


class Named(msgspec.Struct):
    """What is about one environment, or one batch.

    Attributes:
        sandbox_id: What ``make`` returned.
    """

    sandbox_id: Id


class ResetRequest(Named, forbid_unknown_fields=True):
    """Begin an episode.

    Attributes:
        seed: Decides the episode; of a batch, the first one's, or one for each.
        env_ids: Of a batch, the numbers of those that are reset; all if it is left out.
    """

    seed: Seed | list[Seed | None] | None = None
    env_ids: EnvNumbers | None = None


class StepRequest(Named, forbid_unknown_fields=True):
    """Take a turn.

    Attributes:
        action: What the agent says; of a batch, a list.
        env_ids: Of a batch, the numbers of those that take a turn; all if it is left out.
    """

    action: str | list[str]
    env_ids: EnvNumbers | None = None


class CloseRequest(Named, forbid_unknown_fields=True):
    """Close it."""


class ListRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Ask which environments there are.

    Attributes:
        sandbox_id: ROCK asks the sandbox of an environment; here none is needed.
    """

    sandbox_id: Id | None = None


class MakeResult(msgspec.Struct, omit_defaults=True):
    """What was made.

    Attributes:
        sandbox_id: What it is known by from now on.
        num_envs: Of a batch, how many environments it is.
    """

    sandbox_id: str
    num_envs: int | UnsetType = UNSET


class ResetResult(msgspec.Struct):
    """How an episode begins.

    What JSON has not is spelt: NaN and infinities are "NaN", "Infinity" and "-Infinity", arrays are
    lists, bytes are text.

    Attributes:
        observation: What the agent sees; of a batch, a list.
        info: What else there is; of a batch, a list for each key, and one for each key with "_"
            before it that says which environments have it.
    """

    observation: Any
    info: dict[str, Any]


class StepResult(msgspec.Struct):
    """What came of a turn, spelt as for reset.

    Attributes:
        observation: What the agent sees; of a batch, a list, as all that follow.
        reward: A number.
        terminated: Whether the episode is over.
        truncated: Whether it was cut off, by max_episode_steps or in a batch by a fault.
        info: As for reset. In a batch, "fault" says why an episode ended that is no result of
            what the agent did; a single environment's step fails instead.
    """

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: dict[str, Any]


class ListResult(msgspec.Struct):
    """The ids of all environments."""

    env_id: list[str]
