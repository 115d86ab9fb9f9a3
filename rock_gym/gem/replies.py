"""What the process of an environment answers, as the host passes it on."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

from rock_gym.errors import (
    EnvError,
    EnvUnavailable,
    ResetTimeout,
    RockGymError,
    SandboxLost,
    SpecError,
    StepTimeout,
)
from rock_gym.gem import wire

__all__ = [
    "ResetReply",
    "StepReply",
    "check_seed",
    "error_of",
    "gone",
    "late",
    "observed",
    "stepped",
]

_new = tuple.__new__


class ResetReply(NamedTuple):
    """What GEM's reset gave."""

    observation: str
    info: dict[str, Any]


class StepReply(NamedTuple):
    """What GEM's step gave."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


def observed(reply: wire.Observed) -> ResetReply:
    """Return what a reset gave.

    Raises:
        WireError: Of the wire, if the info is none.
    """
    return ResetReply(reply.observation, wire.unpack_info(reply.info))


def stepped(reply: wire.Stepped) -> StepReply:
    """Return what a step gave; raises as ``observed``."""
    info = wire.unpack_info(reply.info)
    # What StepReply() does too, at twice the cost.
    return _new(
        StepReply, (reply.observation, reply.reward, reply.terminated, reply.truncated, info)
    )


def check_seed(seed: int) -> int:
    """Return a seed as an int.

    Raises:
        SpecError: If GEM takes no such seed.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**32:
        raise SpecError(f"a seed must be between 0 and 2**32 - 1, not {seed!r}")
    return number


def error_of(failed: wire.Failed, sandbox_id: str) -> RockGymError:
    """Return the error that an answer tells of."""
    kinds: dict[str, type[RockGymError]] = {
        "unavailable": EnvUnavailable,
        "unknown_id": SpecError,
    }
    kind = kinds.get(failed.kind, EnvError)
    return kind(failed.message, sandbox_id=sandbox_id, output=failed.traceback or None)


def late(what: str, gem_id: str, timeout_s: float | None, sandbox_id: str) -> RockGymError:
    """Return the error of an answer that did not come in time.

    Args:
        what: ``"reset"``, ``"step"``, or what else was asked for.
        gem_id: Of whom.
        timeout_s: What the limit was, if that is known.
        sandbox_id: Where.
    """
    kind = ResetTimeout if what == "reset" else StepTimeout
    limit = "its limit" if timeout_s is None else f"{timeout_s:g} s"
    return kind(
        f"the {what} of {gem_id} took longer than {limit}; its process was killed",
        sandbox_id=sandbox_id,
    )


def gone(process: str, forked: bool, guest_answers: bool, sandbox_id: str) -> RockGymError:
    """Return the error of a process that ended: alone, or with its sandbox.

    Args:
        process: Which it was, in words.
        forked: Whether there ever was one, as far as is known.
        guest_answers: Whether what forks them is still there.
        sandbox_id: Where.
    """
    if not guest_answers:
        return SandboxLost(
            "the sandbox is gone, or its GEM process is; lease another worker",
            sandbox_id=sandbox_id,
        )
    why = "it crashed, ran out of memory or was killed"
    if not forked:
        why = "none could be forked; is the limit on processes or memory too low?"
    return EnvError(f"{process} is gone: {why}", sandbox_id=sandbox_id)
