r"""Any value of an environment as JSON: what JSON lacks has a fixed spelling, and nothing fails.

======================================  ===============================================
a value                                 in JSON
======================================  ===============================================
NaN, positive and negative infinity     ``"NaN"``, ``"Infinity"``, ``"-Infinity"``
a scalar of numpy                       the number, boolean or text that it holds
an array of numpy                       nested lists, of one dimension fewer in each
tuples and other sequences, sets        a list; sets are sorted
bytes                                   text as UTF-8, with ``\\xff`` for what is none
text with lone surrogates               the same text with U+FFFD in their places
keys that are no strings                their text
anything else                           its ``repr``, of at most 2 000 characters
what is too deep or too much            ``"..."``
======================================  ===============================================

The names of the three numbers are those of the JSON mapping of Protocol Buffers. Python reads them
back with ``float(...)``.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from rock_gym.gem.plain import MAX_DEPTH, plain

__all__ = ["encode"]

_to_json = msgspec.json.Encoder().encode
_READY = frozenset({str, int, bool, type(None)})
# A batch puts an environment's info a few levels deeper than it was.
_MAX_DEPTH = MAX_DEPTH + 8
_MAX_ITEMS = 1_000_000
_CUT = "..."


def encode(value: object) -> bytes:
    """Return a value as JSON in UTF-8. Never raises for what a value holds."""
    if type(value) is dict and _is_ready(value):
        made: Any = value
    else:
        made = _convert(value, _MAX_DEPTH, [_MAX_ITEMS])
    try:
        return _to_json(made)
    except (UnicodeEncodeError, OverflowError, ValueError):
        # Lone surrogates, or a number of thousands of digits.
        return _to_json(plain(made))


def _is_ready(value: dict[Any, Any], depth: int = 2) -> bool:
    """Whether a dict holds only what JSON has, as most answers do, looked at so deep."""
    for key, item in value.items():
        kind = type(item)
        if type(key) is not str:
            return False
        if kind in _READY:
            continue
        if kind is float:
            if not math.isfinite(item):
                return False
        elif kind is not dict or depth == 1 or not _is_ready(item, depth - 1):
            return False
    return True


def _convert(value: Any, depth: int, room: list[int]) -> Any:
    """Return a value as what JSON has.

    Args:
        value: The value.
        depth: How many levels are left.
        room: How many items are left, as its only item: a list that holds itself has no end.
    """
    kind = type(value)
    if kind in _READY:
        return value
    if kind is float:
        return value if math.isfinite(value) else _name(value)
    if depth <= 0 or room[0] <= 0:
        return _CUT
    if kind is dict:
        room[0] -= len(value)
        return {
            key if type(key) is str else str(key): (
                item if type(item) in _READY else _convert(item, depth - 1, room)
            )
            for key, item in value.items()
        }
    if kind is list or kind is tuple:
        room[0] -= len(value)
        return [item if type(item) in _READY else _convert(item, depth - 1, room) for item in value]
    if isinstance(value, np.ndarray):
        return _array(value, depth, room)
    return _rare(value, depth, room)


def _array(value: np.ndarray[Any, Any], depth: int, room: list[int]) -> Any:
    if value.dtype.kind in "biu" or (value.dtype.kind == "f" and np.isfinite(value).all()):
        # A long double stays one, so it is made a double first.
        return (value.astype(float) if value.dtype.itemsize > 8 else value).tolist()
    inner = value.astype(float) if value.dtype.kind == "f" else value
    return _convert(inner.tolist(), depth, room)


def _rare(value: Any, depth: int, room: list[int]) -> Any:
    if isinstance(value, np.floating):
        return _convert(float(value), depth, room)
    if isinstance(value, np.generic) and not isinstance(value, (np.void, str, bytes)):
        inner = value.item()
        if type(inner) is not type(value):
            return _convert(inner, depth - 1, room)
    # What is left is rare, and made plain but for the numbers that JSON has not.
    made = plain(value)
    return made if type(made) in _READY else _convert(made, depth - 1, room)


def _name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
