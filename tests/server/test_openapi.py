"""The OpenAPI document is true: schemathesis asks for what it offers, and looks at the answers."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rock_gym.server import create_app
from rock_gym.server.envelope import JsonRoute
from tests.isolated import interpreter
from tests.server.conftest import IMAGE, Server, options_for, run_server

SCHEMATHESIS = "schemathesis==4.32.5"

# All names that are made up are of this one sandbox; so it must not be ended.
CONFIGURATION = """
[parameters]
"query.sandbox_id" = "fuzzed"
"path.sandbox_id" = "fuzzed"
"body.sandbox_id" = "fuzzed"
"""
ENDS_IT = "(delete|/stop|restart|gem/make)$"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose failures have real statuses."""
    state = tmp_path_factory.mktemp("strict") / "state.sqlite"
    options = ("--strict", "--warm", "0", "--state", str(state))
    running = run_server(*options_for("bubblewrap"), *options)
    running.post("start", image=IMAGE, sandbox_id="fuzzed")
    yield running
    log = running.end()
    assert "Traceback" not in log, log


def test_all_is_described(strict: Server) -> None:
    """Every route that takes or gives JSON, and no reference leads nowhere."""
    reply = strict.get("/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    document = reply.body
    described = {
        (path, method.upper())
        for path, operations in document["paths"].items()
        for method in operations
    }
    routes = [route for route in create_app().routes if isinstance(route, JsonRoute)]
    methods = {(route.path, method) for route in routes for method in route.methods or ()}
    assert {(path, method) for path, method in methods if method != "HEAD"} <= described
    names = re.findall(r'"#/components/schemas/(\w+)"', reply.raw.decode())
    assert set(names) <= set(document["components"]["schemas"])
    start = document["components"]["schemas"]["StartRequest"]
    assert start["required"] == ["image"]
    assert [route.path for route in routes if not route.text] == []
    operations = [each for path in document["paths"].values() for each in path.values()]
    assert all(each["summary"] for each in operations)
    assert len({each["operationId"] for each in operations}) == len(operations)


class _Text(HTMLParser):
    """What a page shows, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = ""
        self.fetched: list[str] = []

    def handle_data(self, data: str) -> None:
        self.shown += data

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.fetched += [value for name, value in attrs if name == "src" or tag == "link"]


def test_the_page(strict: Server) -> None:
    """It can be read without a network, and names every path."""
    reply = strict.get("/docs")
    assert reply.headers["content-type"].startswith("text/html")
    text = _Text()
    text.feed(reply.raw.decode())
    assert text.fetched == []
    for path in strict.get("/openapi.json").body["paths"]:
        assert path in text.shown


def test_schemathesis_finds_nothing(strict: Server, tmp_path: Path) -> None:
    """No 500, no status, type or shape of an answer that is not described, nothing let through.

    What a schema cannot say, such as that there is no such image, is not held against it.
    """
    program = interpreter(SCHEMATHESIS).with_name("schemathesis")
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    done = subprocess.run(
        [
            *(program, "run", f"http://127.0.0.1:{strict.port}/openapi.json"),
            *("--phases", "coverage,fuzzing", "--max-examples", "1", "--seed", "1"),
            *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
            *("--exclude-path-regex", ENDS_IT, "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    count = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert count is not None, done.stdout[-2000:]
    assert int(count[1]) > 300
    alive = strict.post("execute", sandbox_id="fuzzed", command="echo alive")
    assert json.loads(alive.raw)["result"]["stdout"] == "alive\n"
