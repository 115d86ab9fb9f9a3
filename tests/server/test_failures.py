"""How errors are told."""

from __future__ import annotations

import inspect
import logging

import pytest

from rock_gym import errors
from rock_gym.errors import CommandTimeout, FileError, RockGymError
from rock_gym.server.failures import explain

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, RockGymError) and value is not RockGymError
]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_a_kind_of_its_own(cls: type[RockGymError]) -> None:
    needed = {"CommandFailed": {"exit_code": 1}, "FileError": {"path": "p", "reason": "EIO"}}
    failure = explain(cls("why", **needed.get(cls.__name__, {})), "id")  # type: ignore[arg-type]
    assert failure.kind != "internal_error"
    assert failure.code in (4000, 5000, 6000)
    assert 400 <= failure.http < 600
    assert failure.reason == "why"


def test_details_come_along() -> None:
    failure = explain(CommandTimeout("long", output="partial", session_restarted=True), "id")
    assert failure.more == {"output": "partial", "session_restarted": True}
    failure = explain(FileError("no", path="/a", reason="ENOSPC"), "id")
    assert (failure.http, failure.more) == (507, {"path": "/a", "errno": "ENOSPC"})


def test_what_nobody_expected_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets the request's id, the log the rest."""
    with caplog.at_level(logging.ERROR, "rock_gym.server"):
        failure = explain(ValueError("the password is 1234"), "id-7")
    assert (failure.kind, failure.http, failure.code) == ("internal_error", 500, 5000)
    assert "1234" not in failure.reason
    assert "id-7" in failure.reason
    assert "1234" in caplog.text
