"""The commands about a machine: ps, reap and bench, and the images of an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rock_gym.cli import main
from tests.contract.support import eventually
from tests.images import archives as make


def run(*words: str, **kwargs: Any) -> Result:
    return CliRunner().invoke(main, words, **kwargs)


def json_of(*words: str) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class TestPs:
    def test_a_sandbox_is_listed_while_it_runs(self, backend: str, start: Any) -> None:
        sandbox = start()
        mine = [each for each in json_of("ps", "--backend", backend) if is_mine(each, sandbox)]
        assert [each["state"] for each in mine] == ["running"]
        assert mine[0]["owner"] == "alive"
        assert mine[0]["id"] in run("ps").output
        sandbox.delete()
        assert eventually(
            lambda: not any(is_mine(each, sandbox) for each in json_of("ps", "--backend", backend))
        )

    @pytest.mark.parametrize("command", ["ps", "reap"])
    def test_an_engine_is_missed_only_where_it_is_asked_for(
        self, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
        assert run(command).exit_code == 0
        result = run(command, "--backend", "docker")
        assert result.exit_code == 3
        assert "DOCKER_HOST" in result.stderr


def is_mine(each: dict[str, Any], sandbox: Any) -> bool:
    return each["id"] == sandbox.id or each["owner_pid"] == os.getpid()


# Starts a sandbox with a control group, and is killed with all its helpers before they can tidy up.
KILLED = """
import os, signal
from rock_gym import Sandbox
from tests.contract.support import command_line, descendants

sandbox = Sandbox.start(backend="bubblewrap", memory="64m")
launcher = [pid for pid in descendants() if "backends/launcher" in command_line(pid)]
print(sandbox.capabilities.memory, *launcher, flush=True)
for pid in launcher:
    os.kill(pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
def test_reap_removes_the_groups_of_the_killed(backend: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    kind, launcher = done.stdout.split()
    if kind != "cgroup":
        pytest.skip("there are no control groups here")
    removed: list[str] = []

    def reaped() -> bool:
        removed.extend(json_of("reap", "--backend", "bubblewrap"))
        return any(f"-{launcher}-" in name for name in removed)

    assert eventually(reaped), removed


class TestBench:
    @pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
    def test_it_measures(self, backend: str) -> None:
        told = json_of("bench", "--scale", "0.01", "--num-envs", "2", "--backend", backend)
        assert told["cpus"] > 0
        names = [figure["name"] for figure in told["figures"]]
        assert names[0] == "bare process: true"
        assert "vector of 2, a process each" in names
        for figure in told["figures"]:
            assert figure["samples"] == 3
            assert figure["median"] > 0


@pytest.mark.parametrize("backend", ["docker"], indirect=True)
class TestImagesOfAnEngine:
    NAME = f"rock-gym-test/cli-{os.getpid()}:1"

    @pytest.fixture
    def there(self, backend: str, tmp_path: Path) -> Iterator[str]:
        """An image of the engine, imported from a tar of a root directory."""
        source = make.write(tmp_path / "archive", make.tar(("etc/x", b"text")))
        assert run("image", "import", str(source), self.NAME, "--backend", "docker").exit_code == 0
        yield self.NAME
        run("image", "rm", self.NAME, "--backend", "docker")

    def test_its_life(self, there: str, tmp_path: Path) -> None:
        """Imported, listed, exported, removed."""
        assert there in {each["name"] for each in json_of("image", "list", "--backend", "docker")}
        assert there in {each["name"] for each in json_of("image", "list")}
        out = tmp_path / "out.tar"
        assert run("image", "export", there, str(out), "--backend", "docker").exit_code == 0
        assert out.stat().st_size > 0
        assert json_of("image", "rm", there, "--backend", "docker") == [there]
        assert there not in {each["name"] for each in json_of("image", "list")}

    def test_it_is_built_from_a_dockerfile(self, there: str, tmp_path: Path) -> None:
        file = tmp_path / "Dockerfile"
        file.write_text(f"FROM {there}\nENV X=1\n")
        assert json_of("image", "build", "file", str(file), there)["name"] == there
        file.write_text("FROM nowhere/at-all:1\nNONSENSE\n")
        result = run("image", "build", "file", str(file), there)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("Error: the Dockerfile cannot be built")

    @pytest.mark.parametrize("words", [("rm",), ("export", "out")])
    def test_one_that_is_not_there(self, backend: str, words: tuple[str, ...]) -> None:
        command, *more = words
        result = run("image", command, "rock-gym-test/none:1", *more, "--backend", "docker")
        assert result.exit_code == 3
        assert len(result.output.splitlines()) == 1


class Breaking(BaseHTTPRequestHandler):
    """An engine that breaks off in the middle of an image, as one does that is killed."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.send_response(200)
        if path.endswith("/get"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"8\r\nhalf of ")
            self.close_connection = True
            return
        answer = [] if "/containers/" in path else {"ApiVersion": "1.41", "Size": 9}
        body = json.dumps(answer).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def test_an_engine_that_breaks_off_in_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says so, and there is no half of a file."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_address[1]}")
        try:
            words = ("image", "export", "some:1", str(tmp_path / "out.tar"), "--backend", "docker")
            result = run(*words)
        finally:
            server.shutdown()
            thread.join()
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: 'some:1' cannot be exported to"), result.output
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
