"""Wrappers around environments, single or vector: recording, playing back, and made-up faults.

The names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rock_gym.wrappers.again import Difference, Outcome, rerun
    from rock_gym.wrappers.chaos import Chaos, VectorChaos
    from rock_gym.wrappers.page import write_page
    from rock_gym.wrappers.record import Record
    from rock_gym.wrappers.record_vector import VectorRecord
    from rock_gym.wrappers.replay import Replay
    from rock_gym.wrappers.replay_vector import VectorReplay

__all__ = [
    "Chaos",
    "Difference",
    "Outcome",
    "Record",
    "Replay",
    "VectorChaos",
    "VectorRecord",
    "VectorReplay",
    "rerun",
    "write_page",
]

_HOMES = {
    "Chaos": "chaos",
    "Difference": "again",
    "Outcome": "again",
    "Record": "record",
    "Replay": "replay",
    "VectorChaos": "chaos",
    "VectorRecord": "record_vector",
    "VectorReplay": "replay_vector",
    "rerun": "again",
    "write_page": "page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
