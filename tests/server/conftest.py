"""Real servers in processes of their own, one for each backend and the whole run."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.contract.support import below, command_line, wait_gone

SANDBOXES = "/apis/envs/sandbox/v1"
IMAGE = "python:3.11"
# Environments that do what the action says.
USER_ENVS = Path(__file__).parents[1] / "gem" / "user_envs"


@dataclass
class Reply:
    """An answer."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def result(self) -> Any:
        assert self.body["status"] == "Success", self.body
        return self.body["result"]

    @property
    def kind(self) -> str:
        """The kind of a failure."""
        assert self.body["status"] == "Failed", self.body
        kind: str = self.body["kind"]
        return kind


@dataclass
class Server:
    """A server process."""

    process: subprocess.Popen[str]
    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()

    def post(self, verb: str, headers: dict[str, str] | None = None, **body: Any) -> Reply:
        path = verb if verb.startswith("/") else f"{SANDBOXES}/{verb}"
        more = {"Content-Type": "application/json", **(headers or {})}
        return self.request("POST", path, json.dumps(body), more)

    def get(self, verb: str, headers: dict[str, str] | None = None) -> Reply:
        path = verb if verb.startswith("/") else f"{SANDBOXES}/{verb}"
        return self.request("GET", path, None, headers)

    def start(self, **more: Any) -> str:
        """Start a sandbox; returns its id."""
        name: str = self.post("start", image=IMAGE, **more).result["sandbox_id"]
        return name

    def end(self, number: int = signal.SIGTERM) -> str:
        """End it; returns what it has logged."""
        left = below(self.process.pid)
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=30)
        still = wait_gone(left, 10)
        assert not still, {pid: command_line(pid) for pid in still}
        return errors


def run_server(*options: str, env: dict[str, str] | None = None) -> Server:
    """Start a server on a free port, and wait until it says that it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rock_gym", "serve", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("rock-gym serves at http://"):
        _, errors = process.communicate(timeout=10)
        raise AssertionError(f"it ended with {process.returncode}: {line}{errors}")
    return Server(process, int(line.rpartition(":")[2]))


def options_for(backend: str) -> tuple[str, ...]:
    """What makes the images of the tests be there."""
    alias = ("--image-alias", f"{IMAGE}=host") if backend == "bubblewrap" else ()
    return ("--backend", backend, *alias)


@pytest.fixture(scope="session")
def server(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on each backend in turn; it leaves nothing, and logs nothing unexpected."""
    state = tmp_path_factory.mktemp("server") / "state.sqlite"
    limits = ("--max-body", "1", "--max-upload", "4", "--max-threads", "40")
    probes = ("--gem-import", "probe_envs", "--gem-path", str(USER_ENVS))
    running = run_server(*options_for(backend), "--state", str(state), *limits, *probes)
    yield running
    errors = running.end()
    assert running.process.returncode == 0, errors
    unexpected = [line for line in errors.splitlines() if "ends by a fault" not in line]
    assert unexpected == []


@pytest.fixture(scope="session")
def shared(server: Server) -> str:
    """A sandbox that tests share which leave its files and sessions to each other."""
    return server.start()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind_by_the_module(
    nothing_left_behind_by_the_session: None,
) -> None:
    """The server outlives the modules; what it leaves is looked at when it ends."""
    return
