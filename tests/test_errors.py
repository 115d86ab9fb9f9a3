"""The tree of errors."""

from __future__ import annotations

import inspect
import pickle

import pytest

from rock_gym import errors
from rock_gym.errors import CommandFailed, CommandTimeout, FileError, RockGymError, SandboxLost

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, RockGymError)
]
EXAMPLES = [
    SandboxLost("it is gone", sandbox_id="sandbox-0123456789ab", output="last words"),
    CommandTimeout("too long", sandbox_id="s", output="partial", session_restarted=True),
    CommandFailed("it failed", exit_code=7, output="why"),
    FileError("no such file", path="a/b", reason="ENOENT", sandbox_id="s"),
]


def test_all_are_exported_in_order() -> None:
    """__all__ is complete and sorted."""
    assert errors.__all__ == sorted(cls.__name__ for cls in CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_each_says_when_it_is_raised(cls: type[RockGymError]) -> None:
    assert (cls.__doc__ or "").startswith("Raised when")


def test_the_drawing_shows_them_all() -> None:
    """The module's docstring draws the tree, and nothing that is not in it."""
    drawn = [line.split()[1] for line in (errors.__doc__ or "").splitlines() if "──" in line]
    assert sorted([*drawn, "RockGymError"]) == errors.__all__


@pytest.mark.parametrize("name", ["CommandTimeout", "PoolExhausted", "StepTimeout", "ResetTimeout"])
def test_timeouts_are_the_builtin_kind_too(name: str) -> None:
    assert issubclass(getattr(errors, name), TimeoutError)


def test_nonsense_is_a_value_error_too() -> None:
    assert issubclass(errors.SpecError, ValueError)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_they_cross_process_boundaries(error: RockGymError) -> None:
    """Pickling keeps the class, the message and every attribute."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert (str(copy), copy.args) == (str(error), error.args)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_can_be_pickled(cls: type[RockGymError]) -> None:
    needed = {"CommandFailed": {"exit_code": 1}, "FileError": {"path": "p", "reason": "EIO"}}
    error = cls("message", **needed.get(cls.__name__, {}))  # type: ignore[arg-type]
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


def test_the_text_names_the_sandbox() -> None:
    assert str(SandboxLost("gone", sandbox_id="sandbox-1")) == "gone [sandbox-1]"
    assert str(SandboxLost("gone")) == "gone"
