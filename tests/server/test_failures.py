"""How errors are told."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

import pytest

from rock_gym import errors
from rock_gym.errors import CommandTimeout, FileError, RockGymError
from rock_gym.server.commits import _Commit
from rock_gym.server.entries import SandboxEntry, Terms
from rock_gym.server.failures import Refused, explain
from rock_gym.server.messages import CommitRequest
from rock_gym.server.settings import Settings
from rock_gym.server.starts import Wish
from rock_gym.server.state import ServerState
from rock_gym.spec import SandboxSpec

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


class Broken:
    """Does nothing but fail, as nobody expects."""

    def start(self, wish: Wish) -> Any:
        raise ValueError("the password is 1234")

    async def use(self, *_: object) -> Any:
        raise ValueError("the password is 1234")


def test_a_commit_that_nobody_expected_to_fail_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    commit = _Commit(CommitRequest(sandbox_id="a", image_tag="b"))
    asyncio.run(commit.run(Broken(), "id-7"))  # type: ignore[arg-type]
    told = commit.result()
    assert (told["phase"], told["exit_code"], commit.runs) == ("FAILED", 12, False)
    assert "id-7" in told["error_message"]
    assert "1234" not in str(told)
    assert "1234" in caplog.text


def test_a_start_that_nobody_expected_to_fail_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    broken: Any = Broken()

    async def main() -> None:
        state = ServerState(Settings())
        wish = Wish("image", SandboxSpec(), broken, 1.0)
        entry = SandboxEntry("a", state, wish, Terms(idle_s=9, keep_s=9))
        entry.begin(broken, "id-7")
        with pytest.raises(Refused, match="id-7"):
            await entry.started()
        assert entry.state == "stopped"
        await entry.delete()
        await state.stop()

    asyncio.run(main())
    assert "1234" in caplog.text
