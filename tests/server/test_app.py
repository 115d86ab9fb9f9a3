"""The application in a host of the user's own, and in this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import uvicorn

from rock_gym.errors import SpecError
from rock_gym.server import Settings, create_app
from rock_gym.server.journal import Journal
from tests.conftest import Holdings
from tests.contract.support import eventually, within
from tests.server.conftest import IMAGE, Server


@dataclass
class Hosted(Server):
    """A server in this process."""

    end_thread: Callable[[], None] = lambda: None


@pytest.fixture
def hosted(backend: str) -> Iterator[Hosted]:
    """The application behind plain uvicorn, in a thread. Nothing of it stays."""
    before = Holdings.now()
    aliases = {IMAGE: "host"} if backend == "bubblewrap" else {}
    app = create_app(backend=backend, aliases=aliases)
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
    thread.start()

    def end() -> None:
        server.should_exit = True
        thread.join(60)

    yield Hosted(None, sock.getsockname()[1], end_thread=end)  # type: ignore[arg-type]
    end()
    sock.close()
    assert eventually(lambda: not Holdings.now().left_since(before)), Holdings.now().left_since(
        before
    )


def test_it_lives_in_other_servers(hosted: Hosted) -> None:
    """Any that run lifespans, which end its sandboxes."""
    assert hosted.get("/healthz").status == 200
    name = hosted.start()
    assert hosted.post("execute", sandbox_id=name, command="echo x").result["stdout"] == "x\n"
    assert hosted.get(f"get_status?sandbox_id={name}").result["is_alive"]


def test_it_ends_while_starts_wait(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """For memory, which is not to be had here: nobody waits three minutes for them."""
    monkeypatch.setattr("rock_gym.stock.available_bytes", lambda: 0)
    later = hosted.post("start_async", image=IMAGE, memory="1g").result["sandbox_id"]
    assert hosted.get(f"is_alive?sandbox_id={later}").result["message"] == "it is pending"
    with within(20):
        hosted.end_thread()


def test_settings_that_make_no_sense() -> None:
    for options in ({"pull": "always"}, {"token": ""}, {"max_threads": 0}, {"adopt": True}):
        with pytest.raises(SpecError):
            create_app(Settings(**options))  # type: ignore[arg-type]


def test_the_journal_forgets_what_was_deleted_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else."""
    monkeypatch.setattr("rock_gym.server.journal._WRITES_PER_SWEEP", 4)
    monkeypatch.setattr("rock_gym.server.journal._DELETED_KEPT_S", -1.0)
    journal = Journal(None, "me", False)
    journal.write("a", "sandbox", "deleted", {})
    journal.write("b", "sandbox", "running", {})
    journal.write("c", "sandbox", "ended", {})
    assert journal.find("a") is not None
    journal.write("d", "sandbox", "deleted", {"x": 1})
    assert journal.find("a") is None
    assert [row.state for each in "bcd" if (row := journal.find(each))] == [
        "running",
        "ended",
        "deleted",
    ]
    journal.close()
