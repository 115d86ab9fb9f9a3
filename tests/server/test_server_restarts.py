"""What becomes of sandboxes when their server is killed, and what the next one tells of them."""

from __future__ import annotations

import http.client
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from rock_gym.cli import main
from tests.contract.support import containers_of, eventually
from tests.server.conftest import IMAGE, Server, options_for, run_server
from tests.server.gem_client import GEM

GUESS = "game:GuessTheNumber-v0-hard"


@pytest.fixture
def state(tmp_path: Path) -> str:
    """A file for the server's state."""
    return str(tmp_path / "state.sqlite")


def under_load(server: Server, name: str) -> None:
    """Keep a server busy until it is killed."""
    ready = threading.Barrier(5)

    def work() -> None:
        first = True
        try:
            while True:
                server.post("execute", sandbox_id=name, command="true")
                if first:
                    first = False
                    ready.wait(30)
        except (OSError, http.client.HTTPException):
            return

    for _ in range(4):
        threading.Thread(target=work).start()
    ready.wait(30)


def begin_episode(server: Server) -> str:
    """Begin an episode of an environment; returns its id."""
    name: str = server.post(f"{GEM}/make", env_id=GUESS).body["sandbox_id"]
    assert server.post(f"{GEM}/reset", sandbox_id=name, seed=1).status == 200
    return name


def test_embedded_sandboxes_end_with_a_killed_server(state: str) -> None:
    """Their ids say that they did, and those that were deleted or never given out do not."""
    options = (*options_for("bubblewrap"), "--state", state)
    first = run_server(*options)
    name, deleted = first.start(), first.start()
    first.post("delete", sandbox_id=deleted)
    env = begin_episode(first)
    under_load(first, name)
    first.end(signal.SIGKILL)  # which looks for what is left
    second = run_server(*options)
    try:
        for verb in ("execute", "run_in_session"):
            assert second.post(verb, sandbox_id=name, command="true").kind == "server_restarted"
        assert second.get(f"get_status?sandbox_id={name}").kind == "server_restarted"
        assert "server" in second.get(f"is_alive?sandbox_id={name}").result["message"]
        assert second.post(f"{GEM}/step", sandbox_id=env, action="x").kind == "server_restarted"
        assert second.post("stop", sandbox_id=name).result == f"{name} stopped"
        assert second.post("execute", sandbox_id=deleted, command="x").kind == "sandbox_closed"
        assert second.post("execute", sandbox_id="never", command="x").kind == "unknown_sandbox"
        # Two servers do not share a state.
        refused = CliRunner().invoke(main, ["serve", "--port", "0", "--state", state])
        assert refused.output.startswith("Error: another server keeps its state")
    finally:
        second.end()
    third = run_server(*options)
    try:
        assert third.post("execute", sandbox_id=name, command="x").kind == "server_restarted"
    finally:
        third.end()


@pytest.fixture
def killed(backend: str, state: str) -> Iterator[tuple[Server, str, str, str]]:
    """A server of containers that was killed, a busy one, a stopped one, and an environment."""
    if backend != "docker":
        pytest.skip("embedded sandboxes end with their server")
    first = run_server("--backend", "docker", "--adopt", "--state", state)
    busy, stopped = first.start(), first.start()
    first.post("write_file", sandbox_id=busy, path="kept", content="still here")
    first.post("create_session", sandbox_id=busy, session="main")
    first.post("stop", sandbox_id=stopped)
    env = begin_episode(first)
    first.post("start_async", image=IMAGE, memory="1g")  # on its way, when the end comes
    under_load(first, busy)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.communicate(timeout=30)
    yield first, busy, stopped, env
    assert not containers_of(first.process.pid)


def test_containers_are_taken_over_or_removed(
    killed: tuple[Server, str, str, str], state: str
) -> None:
    """With their files, but without their sessions, which say why. Spares are not kept.

    Neither are environments: what they play was lost with the sockets to it. A server that was not
    told to take containers over removes them.
    """
    first, busy, stopped, env = killed
    second = run_server("--backend", "docker", "--adopt", "--state", state)
    read = second.post("read_file", sandbox_id=busy, path="kept")
    assert read.result["content"] == "still here"
    request = {"sandbox_id": busy, "session": "main"}
    assert second.post("run_in_session", **request, command="x").kind == "server_restarted"
    assert second.post("close_session", **request).kind == "server_restarted"
    assert second.post("create_session", **request).result
    echoed = second.post("run_in_session", **request, command="echo again")
    assert echoed.result["output"] == "again"
    assert second.get(f"get_status?sandbox_id={stopped}").result["state"] == "stopped"
    assert second.post("restart", sandbox_id=stopped).result
    assert second.post("execute", sandbox_id=stopped, command="true").result["exit_code"] == 0
    items = second.get("sandboxes").result["items"]
    assert {each["sandbox_id"] for each in items} == {busy, stopped}
    assert second.post(f"{GEM}/step", sandbox_id=env, action="x").kind == "server_restarted"
    assert len(containers_of(first.process.pid)) == 2
    assert second.post("delete", sandbox_id=stopped).result
    assert len(containers_of(first.process.pid)) == 1
    second.process.kill()
    second.process.communicate(timeout=30)

    third = run_server("--backend", "docker", "--state", state)
    try:
        assert third.post("execute", sandbox_id=busy, command="x").kind == "server_restarted"
        assert third.post("execute", sandbox_id=stopped, command="x").kind == "sandbox_closed"
        assert eventually(lambda: not containers_of(first.process.pid))
    finally:
        third.end()
