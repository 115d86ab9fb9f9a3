"""Values and spaces as JSON and back, so that a cassette holds what an environment gave.

JSON's own types are themselves. What JSON lacks is an object with one key that begins with ``$``.
Nothing is ever made from a name that a file gives, but for the few that are spelt out here.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rock_gym.envs.spaces import ActionText, Unicode
from rock_gym.errors import CassetteError

__all__ = ["decode", "decode_space", "encode", "encode_space", "untyped"]

_PLAIN = (str, bool, type(None))
_ALIKE: tuple[type[Any], ...] = (str, int, float, dict, list)


def encode(value: Any) -> Any:
    """Return a value as JSON. What cannot be told as JSON is kept as its ``repr`` alone."""
    kind = type(value)
    if kind in _PLAIN or kind is int:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is dict:
        if all(type(key) is str and key[:1] != "$" for key in value):
            return {key: encode(each) for key, each in value.items()}
        return {"$dict": [[encode(key), encode(each)] for key, each in value.items()]}
    if kind is list:
        return [encode(each) for each in value]
    return _encode_other(value)


def _encode_other(value: Any) -> Any:
    for plain in _ALIKE:  # a subclass has nothing more to say
        if isinstance(value, plain):
            return encode(plain(value))
    if isinstance(value, tuple):
        return {"$tuple": [encode(each) for each in value]}
    if isinstance(value, np.ndarray):
        kept = {"dtype": value.dtype.str, "shape": list(value.shape)}
        return {"$array": [encode(each) for each in value.ravel().tolist()], **kept}
    if isinstance(value, np.generic):
        return {"$scalar": encode(value.item()), "dtype": value.dtype.str}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    return {"$repr": repr(value)}


def decode(value: Any) -> Any:
    """Return the value that ``encode`` was given.

    Raises:
        CassetteError: If nothing encodes like that.
    """
    kind = type(value)
    if kind is list:
        return [decode(each) for each in value]
    if kind is not dict:
        return value
    tag = next((key for key in value if key[:1] == "$"), None)
    if tag is None:
        return {key: decode(each) for key, each in value.items()}
    try:
        return _DECODERS[tag](value)
    except (KeyError, TypeError, ValueError) as error:
        raise CassetteError(f"no value is recorded as {str(value)[:80]}: {error!r}") from error


def _array(value: dict[str, Any]) -> Any:
    dtype = np.dtype(value["dtype"])
    flat = np.empty(len(value["$array"]), dtype=dtype)
    for index, each in enumerate(value["$array"]):
        flat[index] = decode(each)
    return flat.reshape(value["shape"])


_DECODERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "$float": lambda value: float(value["$float"]),
    "$dict": lambda value: {decode(key): decode(each) for key, each in value["$dict"]},
    "$tuple": lambda value: tuple(decode(each) for each in value["$tuple"]),
    "$array": _array,
    "$scalar": lambda value: np.dtype(value["dtype"]).type(decode(value["$scalar"])),
    "$bytes": lambda value: base64.b64decode(value["$bytes"]),
    "$repr": lambda value: str(value["$repr"]),
}


def untyped(value: Any) -> Any:
    """Return what was encoded without the types of numbers, which a batch may have given them."""
    if type(value) is dict:
        if "$scalar" in value:
            return value["$scalar"]
        return {key: untyped(each) for key, each in value.items()}
    return [untyped(each) for each in value] if type(value) is list else value


def encode_space(space: gym.Space[Any]) -> dict[str, Any] | None:
    """Return a space as JSON, or None for kinds that are not known here."""
    match space:
        case ActionText():
            return {"space": "moves", "gem_id": space.gem_id, "max_length": space.max_length}
        case Unicode():
            return {"space": "unicode", "max_length": space.max_length}
        case spaces.Text():
            lengths = {"min_length": space.min_length, "max_length": space.max_length}
            return {"space": "text", **lengths, "charset": space.characters}
        case spaces.Discrete():
            return {"space": "discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.Box():
            bounds = {"low": encode(space.low), "high": encode(space.high)}
            return {"space": "box", **bounds, "dtype": np.dtype(space.dtype).str}
        case spaces.MultiBinary():
            return {"space": "multi_binary", "shape": list(space.shape)}
        case spaces.MultiDiscrete():
            return {"space": "multi_discrete", "nvec": encode(space.nvec)}
        case spaces.Tuple():
            return _encode_parts("tuple", list(enumerate(space.spaces)))
        case spaces.Dict():
            return _encode_parts("dict", list(space.spaces.items()))
    return None


def _encode_parts(name: str, parts: list[tuple[Any, gym.Space[Any]]]) -> dict[str, Any] | None:
    encoded = [[key, encode_space(part)] for key, part in parts]
    return None if any(part is None for _, part in encoded) else {"space": name, "parts": encoded}


def decode_space(value: dict[str, Any] | None) -> gym.Space[Any]:
    """Return the space that ``encode_space`` was given.

    Raises:
        CassetteError: If it was of a kind that is not recorded.
    """
    try:
        return _SPACES[value["space"]](value)  # type: ignore[index,arg-type]
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise CassetteError(
            "its spaces were not recorded, so it cannot be played back as an environment"
        ) from error


_SPACES: dict[str, Callable[[dict[str, Any]], gym.Space[Any]]] = {
    "moves": lambda value: ActionText(value["gem_id"], value["max_length"]),
    "unicode": lambda value: Unicode(value["max_length"]),
    "text": lambda value: spaces.Text(
        value["max_length"], min_length=value["min_length"], charset=value["charset"]
    ),
    "discrete": lambda value: spaces.Discrete(value["n"], start=value["start"]),
    "box": lambda value: spaces.Box(
        decode(value["low"]), decode(value["high"]), dtype=np.dtype(value["dtype"]).type
    ),
    "multi_binary": lambda value: spaces.MultiBinary(value["shape"]),
    "multi_discrete": lambda value: spaces.MultiDiscrete(decode(value["nvec"])),
    "tuple": lambda value: spaces.Tuple([decode_space(part) for _, part in value["parts"]]),
    "dict": lambda value: spaces.Dict({key: decode_space(part) for key, part in value["parts"]}),
}
