"""Checks on what an environment is made with, before anything is started."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from rock_gym.errors import SpecError

__all__ = [
    "check_choice",
    "check_directories",
    "check_gem_kwargs",
    "check_imports",
    "check_timeout",
]

# Close to one of ours by spelling, but GEM's own: rg:composite takes it.
_GEMS_OWN = frozenset({"datasets"})


def check_choice(name: str, value: str | None, choices: Iterable[str | None]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        SpecError: If it is none of them.
    """
    known = list(choices)
    if value not in known:
        raise SpecError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")


def check_count(name: str, value: int) -> int:
    """Return a whole number of at least one.

    Raises:
        SpecError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(f"{name} must be a whole number of at least 1, not {value!r}")
    return value


def check_imports(names: Iterable[str]) -> tuple[str, ...]:
    """Return the modules that register environments with GEM.

    Raises:
        SpecError: If one is not a module name, or if a bare string stands where a list belongs.
    """
    if isinstance(names, str):
        raise SpecError(f"imports must be a list of modules: write [{names!r}]")
    found = tuple(names)
    for name in found:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise SpecError(f"imports: {name!r} is not the name of a module")
    return found


def check_timeout(name: str, value: float | None) -> float | None:
    """Return a limit in seconds as a float, or None for no limit.

    Raises:
        SpecError: If it is neither a positive number nor None.
    """
    if value is None:
        return None
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not 0 < number < math.inf:
        raise SpecError(f"{name} must be a positive number of seconds or None, not {value!r}")
    return float(number)


def check_directories(name: str, paths: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return directories by their absolute paths.

    Raises:
        SpecError: If one is not a directory, or if a bare string stands where a list belongs.
    """
    if isinstance(paths, (str, bytes)):
        raise SpecError(f"{name} must be a list of directories: write [{paths!r}]")
    found = tuple(os.path.abspath(path) for path in paths)
    for path in found:
        if not os.path.isdir(path):
            raise SpecError(f"{name}: there is no directory {path}")
    return found


def check_gem_kwargs(kwargs: Mapping[str, Any], own: Iterable[str]) -> dict[str, Any]:
    """Return the arguments that go on to ``gem.make``, as plain JSON values.

    Args:
        kwargs: What is left when our own arguments have been taken.
        own: The names of our own arguments. GEM swallows what it does not know, so a misspelt
            ``memory=`` would be a limit that silently is not there.

    Raises:
        SpecError: If a name looks misspelt or a value is not JSON.
    """
    names = list(own)
    for name in kwargs:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
        if close and name not in _GEMS_OWN:
            raise SpecError(f"unknown argument {name}=; did you mean {close[0]}=?")
    return {name: _plain(value, f"{name}=") for name, value in kwargs.items()}


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise SpecError(
        f"{where} must be a JSON value to reach GEM in its sandbox, not {type(value).__name__}: "
        "give numbers, strings, lists or dictionaries with string keys, "
        "or build the object in a module named by imports="
    )
