"""What a pool may hold, what it does when that is not enough, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rock_gym.errors import SpecError

Exhaustion = Literal["wait", "fail", "grow"]


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a pool holds and has done.

    Attributes:
        leased: Sandboxes handed out and not yet given back.
        idle: Warm spares.
        starting: Sandboxes on their way up.
        ending: Used ones on their way out.
        waiting: Callers in ``acquire`` and ``acquire_many``.
        started: Sandboxes started since the pool was made.
        failed: Starts that failed.
        refused: Sandboxes that were dead, or not to the liking of ``verify``, when they were to
            be handed out.
    """

    leased: int
    idle: int
    starting: int
    ending: int
    waiting: int
    started: int
    failed: int
    refused: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How many sandboxes a stock may hold.

    Attributes:
        min_idle: Spares that are kept warm.
        max_size: Sandboxes alive at once; None for no limit.
        max_starting: Sandboxes that are started at the same time.
        reserve: Whether every sandbox's whole memory limit is set aside for it.
    """

    min_idle: int = 0
    max_size: int | None = None
    max_starting: int = 4
    reserve: bool = False

    def __post_init__(self) -> None:
        _check_count("min_idle", self.min_idle, 0)
        _check_count("max_starting", self.max_starting, 1)
        if self.max_size is not None:
            _check_count("max_size", self.max_size, 1)
            if self.max_size < self.min_idle:
                raise SpecError(f"max_size={self.max_size} is less than min_idle={self.min_idle}")


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"{name} is a whole number from {least}, not {value!r}")
