"""The examples that speak HTTP do what they say, against a server that runs as they ask for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.server import rl_rock
from tests.server.conftest import Server

EXAMPLES = Path(__file__).parents[2] / "examples"

# A server is the same to them whatever is behind it.
pytestmark = pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True, scope="session")


def test_curl(server: Server) -> None:
    done = subprocess.run(
        ["sh", str(EXAMPLES / "http_curl.sh"), f"http://127.0.0.1:{server.port}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "hello from sandbox" in done.stdout
    assert "1 in /tmp" in done.stdout
    assert "Guess The Number" in done.stdout
    assert "Congratulations" in done.stdout
    assert '"Failed"' not in done.stdout


def test_rl_rock(server: Server) -> None:
    lines = rl_rock.run(rl_rock.interpreter(), EXAMPLES / "http_rl_rock.py", server.port)
    assert lines[:2] == ["sandbox: hello, exit code 0", "session: 1 in /tmp"]
    assert lines[-1].endswith("reward 1.0")
