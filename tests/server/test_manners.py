"""Who may ask, in what manner, and how much; and what the server tells of itself."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from rock_gym.cli import main
from tests.contract.support import eventually, within
from tests.server.conftest import IMAGE, SANDBOXES, Server, options_for, run_server

JSON = {"Content-Type": "application/json"}
START = f'{{"image": "{IMAGE}"}}'
TOKEN = "correct-horse"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A strict server with a token, which listens everywhere, and logs."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN + "\n")
    running = run_server(
        *(*options_for("bubblewrap"), "--host", "0.0.0.0", "--token-file", str(token)),
        *("--strict", "-v", "--warm", "0"),
    )
    yield running
    log = running.end()
    assert TOKEN not in log
    assert "top secret" not in log
    assert not [line for line in log.splitlines() if line.startswith("2026 INFO forged")]
    assert "forged" in log
    assert "POST /apis/envs/sandbox/v1/execute Success" in log


BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8080"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_web_pages_are_refused(server: Server, headers: dict[str, str]) -> None:
    """Whatever they ask for, and by whatever method."""
    for method, path in (("POST", f"{SANDBOXES}/start"), ("GET", f"{SANDBOXES}/sandboxes")):
        reply = server.request(method, path, START, {**JSON, **headers})
        assert (reply.status, reply.body["status"]) == (403, "Failed")
    assert server.get("/healthz", {"Host": f"localhost:{server.port}"}).status == 200
    assert server.get("/healthz", {"Host": "[::1]:9000"}).status == 200


def test_bodies_that_a_page_may_send_are_refused(server: Server) -> None:
    """Without a preflight it may send these, and only these."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        reply = server.request("POST", f"{SANDBOXES}/start", START, {"Content-Type": kind})
        assert (reply.status, reply.kind) == (415, "wrong_type")
    assert server.request("POST", f"{SANDBOXES}/upload", "{}", JSON).status == 415


def test_a_token_is_asked_for(guarded: Server) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        reply = guarded.get("sandboxes", headers)
        assert (reply.status, reply.body["kind"]) == (401, "unauthorized")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert guarded.get("/metrics", headers).status == 401
    assert guarded.get("/healthz").status == 200
    assert guarded.get("sandboxes", BEARER).result["total"] == 0
    assert guarded.get("sandboxes", {"XRL-Authorization": f"Bearer {TOKEN}"}).result["total"] == 0
    # Who knows the token may call the server by any name.
    assert guarded.get("sandboxes", {**BEARER, "Host": "proxy.example"}).status == 200


@pytest.mark.parametrize(
    "options",
    [
        ("--host", "0.0.0.0"),
        ("--token", " "),
        ("--image-alias", "x"),
        ("--adopt",),
        ("--state", "/dev/null/x"),
    ],
    ids=" ".join,
)
def test_servers_that_do_not_start(options: tuple[str, ...]) -> None:
    """One that strangers could reach needs a token. The reason is one line."""
    done = CliRunner().invoke(main, ["serve", "--port", "0", *options])
    assert done.exit_code in (2, 3)
    assert done.output.startswith("Error: ")
    assert done.output.count("\n") == 1


def test_a_state_that_is_none(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("no such thing as a state" * 100)
    done = CliRunner().invoke(main, ["serve", "--port", "0", "--state", str(state)])
    assert done.exit_code == 3
    assert "pass another --state" in done.output


def test_strict_failures(guarded: Server) -> None:
    """Problem details with real statuses; successes are as ever."""
    name = guarded.post("start", BEARER, image=IMAGE).result["sandbox_id"]

    def fail(verb: str, **body: object) -> tuple[int, str]:
        reply = guarded.post(verb, BEARER, **body)
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.body["status"] == reply.status
        assert reply.body["request_id"] == reply.headers["x-request-id"]
        assert reply.body["detail"]
        return reply.status, reply.body["kind"]

    assert fail("execute", sandbox_id="never", command="x") == (404, "unknown_sandbox")
    assert fail("execute", sandbox_id=name) == (422, "invalid_parameter")
    assert fail("execute", sandbox_id=name, command="sleep 9", timeout=0) == (
        504,
        "command_timeout",
    )
    assert fail("read_file", sandbox_id=name, path="/no/such") == (404, "file_error")
    assert fail("read_file", sandbox_id=name, path="/") == (409, "file_error")
    assert fail("create_session", sandbox_id=name, session="") == (422, "invalid_parameter")
    assert fail("run_in_session", sandbox_id=name, command="x") == (404, "session_closed")
    assert fail("start", image="no/such:1") == (404, "image_not_found")
    assert fail("stop", sandbox_id="never") == (404, "unknown_sandbox")
    # Nothing of a request but its path, outcome and sandbox is logged.
    guarded.post("execute", BEARER, sandbox_id=name, command="echo top secret")
    guarded.post("execute", BEARER, sandbox_id="x\n2026 INFO forged", command="x")


def test_one_client_can_be_strict(server: Server) -> None:
    reply = server.post("execute", {"X-Rock-Strict": "1"}, sandbox_id="never", command="x")
    assert (reply.status, reply.body["kind"]) == (404, "unknown_sandbox")


def test_unknown_paths_and_methods(server: Server) -> None:
    missing = server.get("/no/such/path")
    assert (missing.status, missing.body["detail"], missing.kind) == (404, "Not Found", "not_found")
    wrong = server.get("start")
    assert (wrong.status, wrong.kind) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


def test_limits_of_bodies(server: Server, shared: str) -> None:
    """1 MiB of JSON and 4 MiB of upload here; the rest of a body is not even read."""
    long = "x" * (1 << 20)
    reply = server.post("write_file", sandbox_id=shared, path="long", content=long)
    assert (reply.status, reply.kind) == (413, "too_large")
    assert "--max-body" in reply.body["error"]
    assert server.post("write_file", sandbox_id=shared, path="long", content=long[:-200]).result[
        "success"
    ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        head = (
            f"POST {SANDBOXES}/upload HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        sock.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(part), part))
        piece = b"%x\r\n%s\r\n" % (1 << 20, b"x" * (1 << 20))
        for _ in range(5):
            sock.sendall(piece)
        assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_goes_away(server: Server) -> None:
    """In the middle of a body; nothing of that is worth a word in the log."""
    for verb, kind in (
        ("upload", "multipart/form-data; boundary=b"),
        ("start", "application/json"),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            head = (
                f"POST {SANDBOXES}/{verb} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
            )
            sock.sendall(head.encode() + b"Content-Length: 1000\r\n\r\n--b\r\n")
    gone = 'outcome="client_gone"'
    assert eventually(lambda: server.get("/metrics").raw.decode().count(gone) >= 2)


def test_request_ids(server: Server) -> None:
    assert server.get("sandboxes", {"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    drawn = {server.get("sandboxes").headers["x-request-id"] for _ in range(3)}
    assert len(drawn) == 3
    odd = server.get("sandboxes", {"X-Request-Id": 'a"b c'}).headers["x-request-id"]
    assert odd != 'a"b c'


def test_figures(server: Server, shared: str) -> None:
    """For Prometheus: by path of the route, never by what a client makes up."""
    server.post("execute", sandbox_id=shared, command="true")
    server.get("/made/up/by/a/client")
    text = server.get("/metrics").raw.decode()
    line = f'rock_gym_requests_total{{outcome="Success",path="{SANDBOXES}/execute"}}'
    assert line in text
    assert 'rock_gym_entries{state="running"}' in text
    assert "rock_gym_request_seconds_bucket" in text
    assert "made" not in text
    assert 'outcome="not_found",path="other"' in text


def test_the_end_leaves_nothing_and_answers_who_waits() -> None:
    """`end` looks for what is left of it. A second server has another state of its own."""
    running = run_server(*options_for("bubblewrap"))
    name = running.start()
    kinds: list[str] = []

    def hang() -> None:
        kinds.append(running.post("execute", sandbox_id=name, command="sleep 1000").kind)

    thread = threading.Thread(target=hang)
    thread.start()
    busy = '{outcome="Success",path="/apis/envs/sandbox/v1/start"}'
    assert eventually(lambda: busy in running.get("/metrics").raw.decode())
    assert eventually(
        lambda: (
            running.get(f"get_sandbox_statistics?sandbox_id={name}").result["raw"]["processes"] > 2
        )
    )
    with within(20):
        running.end(signal.SIGINT)
    thread.join(10)
    assert (kinds, running.process.returncode) == (["sandbox_closed"], 0)


def test_a_port_that_is_taken(server: Server) -> None:
    done = CliRunner().invoke(main, ["serve", "--port", str(server.port)])
    assert done.exit_code == 3
    assert done.output.startswith(f"Error: cannot listen on 127.0.0.1 port {server.port}")
