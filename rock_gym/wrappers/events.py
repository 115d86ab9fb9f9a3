"""What a cassette holds, environment by environment: the beginnings and steps of episodes.

A vector's calls are taken apart, and where one row ends an episode and begins the next it is two
events. So whoever reads events need not know how, or how many at a time, they were recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rock_gym.errors import CassetteError
from rock_gym.wrappers.cassette import Cassette

__all__ = ["Event", "read_events"]


@dataclass(frozen=True, slots=True)
class Event:
    """A reset or a step of one environment. Values are as the file has them, encoded.

    Attributes:
        line: The line of the file.
        env: The environment's number.
        begins: Whether it is a reset.
        took_s: How long it took, in seconds; of a batch, how long the batch took.
        seed: The seed that a reset was given.
        rng: The seed of the generator that unseeded resets follow from.
        options: What else a reset was given.
        action: What a step was given.
        obs: The observation.
        reward: The reward.
        terminated: Whether the episode ended.
        truncated: Whether the episode was cut off.
        info: The info.
        fault: The kind of what went wrong, if anything did.
        message: What was said about it.
    """

    line: int
    env: int
    begins: bool
    took_s: float | None = None
    seed: int | None = None
    rng: int | None = None
    options: Any = None
    action: Any = None
    obs: Any = None
    reward: Any = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None
    message: str | None = None


def read_events(cassette: Cassette) -> Iterator[Event]:
    """Yield what was recorded, in order.

    Raises:
        CassetteError: If the file is broken.
    """
    take_apart = _of_vector if cassette.is_vector else _of_env
    number = 1
    try:
        for number, line in cassette.lines():
            yield from take_apart(number, line, cassette.num_envs)
    except (AttributeError, KeyError, TypeError) as error:
        raise CassetteError(
            f"line {number} of {cassette.path} is broken: {type(error).__name__}: {error}"
        ) from error


def _of_env(number: int, line: dict[str, Any], _: int) -> Iterator[Event]:
    fault = line.get("fault") or {}
    asked: dict[str, Any] = {
        "line": number,
        "env": 0,
        "begins": line["call"] == "reset",
        "took_s": line.get("took_s"),
        **{key: line.get(key) for key in ("seed", "rng", "options", "action")},
    }
    if fault:
        yield Event(**asked, truncated=True, fault=fault["kind"], message=fault["message"])
    elif asked["begins"]:
        yield Event(**asked, obs=line["obs"], info=line["info"])
    else:
        keys = ("obs", "reward", "terminated", "truncated", "info")
        yield Event(**asked, **{key: line[key] for key in keys})


def _of_vector(number: int, line: dict[str, Any], num_envs: int) -> Iterator[Event]:
    if "fault" in line:
        # It was raised in the place of a batch, so it says nothing of any one of them.
        fault = line["fault"]
        begins = line["call"] == "reset"
        for env in range(num_envs):
            yield Event(
                number,
                env,
                begins,
                line.get("took_s"),
                truncated=True,
                fault=fault["kind"],
                message=fault["message"],
            )
        return
    for row in line["rows"]:
        yield from _of_row(number, line, row)


def _of_row(number: int, line: dict[str, Any], row: dict[str, Any]) -> Iterator[Event]:
    info = dict(row["info"])
    fault = info.pop("fault", None)
    took_s = row.get("took_s", line.get("took_s"))
    flags = {key: row[key] for key in ("reward", "terminated", "truncated") if key in row}
    if row.get("begins"):
        known: dict[str, Any] = {
            "seed": row.get("seed"),
            "rng": row.get("rng"),
            "options": line.get("options"),
        }
        yield Event(
            number, row["env"], True, took_s, **known, obs=row["obs"], info=info, fault=fault
        )
        return
    step = (number, row["env"], False, took_s)
    if "final_obs" not in info:
        yield Event(
            *step, action=row.get("action"), obs=row["obs"], **flags, info=info, fault=fault
        )
        return
    final_obs, final_info = info.pop("final_obs"), dict(info.pop("final_info", {}))
    ended_by = final_info.pop("fault", None)
    yield Event(
        *step, action=row.get("action"), obs=final_obs, **flags, info=final_info, fault=ended_by
    )
    yield Event(number, row["env"], True, None, obs=row["obs"], info=info, fault=fault)
