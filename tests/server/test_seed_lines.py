"""Every curl line of the API's guide works as it stands there, but for port and sandbox id.

GEM's calls are in ``test_gem_api``, by a client that keeps its connection.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Server

START = """
curl -X POST 'http://localhost:8080/apis/envs/sandbox/v1/start' \\
-H 'Content-Type: application/json' \\
-d '{
"image": "python:3.11",
"resources": {
"cpu": "2",
"memory": "8g"
}
}'
"""
START_ASYNC = START.replace("v1/start", "v1/start_async")
EXECUTE = """
curl -X POST 'http://localhost:8080/apis/envs/sandbox/v1/execute' \\
-H 'Content-Type: application/json' \\
-d '{
"sandbox_id": "sandbox-12345",
"command": "ls -la"
}'
"""
CREATE_SESSION = """
curl -X POST 'http://localhost:8080/apis/envs/sandbox/v1/create_session' \\
-H 'Content-Type: application/json' \\
-d '{
"sandbox_id": "sandbox-12345",
"session": "my_session"
}'
"""
RUN_IN_SESSION = """
curl -X POST 'http://localhost:8080/apis/envs/sandbox/v1/run_in_session' \\
-H 'Content-Type: application/json' \\
-d '{
"sandbox_id": "sandbox-12345",
"session": "my_session",
"command": "python script.py"
}'
"""
UPLOAD = """
curl -X POST 'http://localhost:8080/apis/envs/sandbox/v1/upload' \\
-F 'file=@./local_file.txt' \\
-F 'target_path=./remote_file.txt' \\
-F 'sandbox_id=sandbox-12345'
"""
STOP = """
curl -X POST 'http://localhost:8080/apis/envs/sandbox/v1/stop' \\
-H 'Content-Type: application/json' \\
-d '{
"sandbox_id": "sandbox-12345"
}'
"""


def run(line: str, server: Server, folder: Path, sandbox_id: str = "") -> Any:
    """Run a line with the real curl; returns the result."""
    line = line.replace("localhost:8080", f"localhost:{server.port}")
    line = line.replace("sandbox-12345", sandbox_id)
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    answer = json.loads(done.stdout)
    assert answer["status"] == "Success", answer
    return answer["result"]


def test_a_day_by_curl(server: Server, folder: Path) -> None:
    """All of them in turn on one sandbox."""
    started = run(START, server, folder)
    assert (started["cpus"], started["memory"]) == (2.0, "8.00g")
    name = started["sandbox_id"]

    server.post("write_file", sandbox_id=name, path="script.py", content="print(6 * 7)")
    executed = run(EXECUTE, server, folder, name)
    assert executed["exit_code"] == 0
    assert "script.py" in executed["stdout"]

    run(CREATE_SESSION, server, folder, name)
    assert run(RUN_IN_SESSION, server, folder, name)["output"] == "42"

    (folder / "local_file.txt").write_text("from here\n")
    assert run(UPLOAD, server, folder, name)["success"]
    read = server.post("read_file", sandbox_id=name, path="remote_file.txt")
    assert read.result == {"content": "from here\n"}

    for _ in range(2):
        assert run(STOP, server, folder, name) == f"{name} stopped"
    assert not server.get(f"is_alive?sandbox_id={name}").result["is_alive"]


def test_the_asynchronous_start(server: Server, folder: Path) -> None:
    name = run(START_ASYNC, server, folder)["sandbox_id"]
    status = server.get(f"get_status?sandbox_id={name}&include_all_states=False").result
    assert (status["state"], status["is_alive"]) == ("running", True)
    server.post("delete", sandbox_id=name)


@pytest.mark.parametrize("verb", ["is_alive", "get_sandbox_statistics", "get_status"])
def test_what_the_guide_names_without_a_line(server: Server, shared: str, verb: str) -> None:
    assert server.get(f"{verb}?sandbox_id={shared}").result


def test_what_it_names_without_a_line_and_posts(server: Server, shared: str) -> None:
    """Closing a session, and reading and writing files; commits are in ``test_lives``."""
    server.post("create_session", sandbox_id=shared, session="to close")
    closed = server.post("close_session", sandbox_id=shared, session="to close")
    assert closed.result == {"session_type": "bash"}
    written = server.post("write_file", sandbox_id=shared, path="/tmp/new/a", content="ä\n")
    assert written.result["success"]
    assert server.post("read_file", sandbox_id=shared, path="/tmp/new/a").result["content"] == "ä\n"
