"""Any Python value as plain data: what an environment puts into an info may be anything.

The guest has a copy of this file, so it leans on the standard library alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

MAX_DEPTH = 16

_MAX_ITEMS = 100_000
_MAX_REPR = 2000
_MAX_BITS = 10_000
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


def plain(value: object) -> Any:
    """Return a value as what JSON has; never raises, and never returns what cannot be sent.

    Numbers and arrays of numpy become plain, keys become strings, integers that no 64 bits hold
    and everything unknown become text. What is too deep or too much is cut.
    """
    return _Plain().convert(value, MAX_DEPTH)


class _Plain:
    """One conversion, with a budget: a list that holds itself ten times has no end."""

    _CUT: ClassVar[str] = "..."

    def __init__(self) -> None:
        self.items = _MAX_ITEMS

    def convert(self, value: Any, depth: int) -> Any:
        self.items -= 1
        if self.items < 0:
            return self._CUT
        try:
            return self._convert(value, depth)
        except Exception:
            # Whatever an environment's object does when it is looked at, the channel lives on.
            return self._describe(value)

    def _convert(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _text(value)
        if isinstance(value, int):
            # Of a subclass only the number: what it makes of int() is its own affair.
            number = int.__index__(value)
            return number if _INT_MIN <= number <= _INT_MAX else _digits(number)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, (bytes, bytearray)):
            return bytes(value).decode("utf-8", "backslashreplace")
        if depth <= 0:
            return self._describe(value)
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple)):
            return self._list(value, depth)
        if isinstance(value, (set, frozenset)):
            return self._list(sorted(value, key=repr), depth)
        if callable(getattr(value, "tolist", None)) and getattr(value, "size", 1) <= _MAX_ITEMS:
            return self._array(value, depth)
        return self._describe(value)

    def _describe(self, value: object) -> str:
        text = _described(value)
        self.items -= len(text) // 8
        return text

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        made = {}
        for key, item in value.items():
            if self.items <= 0:
                break
            name = _text(key) if isinstance(key, str) else _text(str(key))
            made[name] = self.convert(item, depth - 1)
        return made

    def _list(self, value: Iterable[Any], depth: int) -> list[Any]:
        made = []
        for item in value:
            if self.items <= 0:
                break
            made.append(self.convert(item, depth - 1))
        return made

    def _array(self, value: Any, depth: int) -> Any:
        inner = value.tolist()
        # A long double stays one.
        return float(value) if type(inner) is type(value) else self.convert(inner, depth - 1)


def _described(value: object) -> str:
    try:
        return _text(repr(value)[:_MAX_REPR])
    except Exception:  # whatever the object's own text raises
        return f"<{type(value).__name__}>"


def _text(value: str) -> str:
    # Of a subclass only the characters, as above.
    text = str.__str__(value)
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _digits(number: int) -> str:
    # Python refuses to write out more digits than this allows.
    return (
        str(number) if number.bit_length() < _MAX_BITS else f"<int of {number.bit_length()} bits>"
    )
