"""Commands and sessions over HTTP: what ROCK hides is said."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract.support import within
from tests.server.conftest import Server


def test_strings_go_through_a_shell_and_lists_do_not(server: Server, shared: str) -> None:
    def run(command: object, **more: object) -> tuple[str, str, int]:
        result = server.post("execute", sandbox_id=shared, command=command, **more).result
        return result["stdout"], result["stderr"], result["exit_code"]

    assert run("echo a; echo b >&2; exit 3") == ("a\n", "b\n", 3)
    assert run(["echo", "a;b"]) == ("a;b\n", "", 0)
    assert run("echo $X", env={"X": "1"}, cwd="/tmp")[0] == "1\n"
    assert run("echo $PATH", env={"X": "1"})[0].strip()  # added to what is there
    assert run(["echo $0 $1", "a", "b"], shell=True)[0] == "a b\n"


def test_output_that_is_no_text(server: Server, shared: str) -> None:
    printed = server.post("execute", sandbox_id=shared, command=r"printf '\377\000x'").result
    assert printed["stdout"] == "\\xff\x00x"


def test_failures_of_commands(server: Server, shared: str) -> None:
    """Each says why, where ROCK answers Success and -1."""

    def fail(**request: object) -> tuple[str, dict[str, object]]:
        reply = server.post("execute", sandbox_id=shared, **request)
        assert reply.status == 200
        return reply.kind, reply.body["result"]

    kind, result = fail(command="echo partial; sleep 60", timeout=0.3)
    assert (kind, result["code"]) == ("command_timeout", 6000)
    assert result["stdout"] == "partial\n"
    assert "0.3 s" in str(result["failure_reason"])
    kind, result = fail(command="echo why; exit 7", check=True, error_msg="mine")
    assert (kind, result["exit_code"]) == ("command_failed", 7)
    assert str(result["failure_reason"]).startswith("mine: ")
    assert fail(command=["no-such-program"])[0] == "file_error"
    assert fail(command="true", cwd="/no/such")[0] == "file_error"
    assert fail(command="nul\0")[0] == "invalid_request"
    assert fail(command="true", env={"A=B": "x"})[0] == "invalid_request"


def test_a_session_keeps_its_state(server: Server, shared: str) -> None:
    def run(command: str, **more: object) -> dict[str, object]:
        request = {"sandbox_id": shared, "session": "state", "command": command, **more}
        result: dict[str, object] = server.post("run_in_session", **request).result
        return result

    server.post("create_session", sandbox_id=shared, session="state", env={"Y": "why"})
    run("cd /tmp; x=1")
    assert run("echo $x $Y; pwd")["output"] == "1 why\n/tmp"
    assert run("(exit 3)", check="silent")["exit_code"] == 3
    assert run("(exit 3)", check="ignore")["exit_code"] is None
    observed = run("true")
    assert (observed["failure_reason"], observed["session_type"]) == ("", "bash")


def test_failures_of_sessions(server: Server, shared: str) -> None:
    def fail(verb: str, **request: object) -> tuple[str, object, object]:
        reply = server.post(verb, sandbox_id=shared, session="fails", **request)
        return reply.kind, reply.body["message"], reply.body["error"]

    assert fail("run_in_session", command="true")[0] == "session_closed"
    assert fail("close_session")[0] == "session_closed"
    assert server.post("create_session", sandbox_id=shared, session="fails").result
    assert fail("create_session")[0] == "invalid_request"
    # ROCK's client takes this, and nothing else, for the end of a process that it waits for.
    kind, message, reason = fail("run_in_session", command="kill -0 99999")
    assert (kind, message) == ("command_failed", None)
    assert "code 1" in str(reason)
    assert fail("run_in_session", command="sleep 60", timeout=0.2)[0] == "command_timeout"
    # It never returns what the one before has printed late.
    late = server.post("run_in_session", sandbox_id=shared, session="fails", command="echo now")
    assert late.result["output"] == "now"
    assert fail("run_in_session", command="x", is_interactive_command=True)[0] == "invalid_request"
    ended = server.post(
        "run_in_session", sandbox_id=shared, session="fails", command="exit 7", check="silent"
    )
    assert ended.result["exit_code"] == 7
    assert fail("run_in_session", command="true")[0] == "session_closed"


def test_startup_files_of_a_session(server: Server, shared: str) -> None:
    """One that is missing is text in the output, as in ROCK; one that hangs frees the name."""
    server.post("write_file", sandbox_id=shared, path="/tmp/rc", content="z=3; echo from rc\n")
    created = server.post(
        "create_session", sandbox_id=shared, session="rc", startup_source=["/tmp/rc", "/no/rc"]
    ).result["output"]
    assert created.startswith("from rc\n")
    assert "/no/rc" in created
    run = server.post("run_in_session", sandbox_id=shared, session="rc", command="echo $z")
    assert run.result["output"] == "3"


def test_other_users_are_not_to_be_had(server: Server, shared: str) -> None:
    me = server.post("execute", sandbox_id=shared, command="id -un").result["stdout"].strip()
    mine = server.post("create_session", sandbox_id=shared, session="me", remote_user=me)
    assert mine.result["session_type"] == "bash"
    other = server.post("create_session", sandbox_id=shared, session="you", remote_user="you")
    assert other.kind == "invalid_request"


def test_calls_to_one_session_queue(server: Server, shared: str) -> None:
    """None gets another's output."""
    server.post("create_session", sandbox_id=shared, session="queue")

    def ask(number: int) -> str:
        request = {"sandbox_id": shared, "session": "queue", "command": f"echo {number}"}
        output: str = server.post("run_in_session", **request).result["output"]
        return output

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(24))) == [str(number) for number in range(24)]


def test_what_is_stuck_blocks_no_one(server: Server) -> None:
    """More commands hang in one sandbox than it may have at once, and all others go on.

    So does its end, by which the clients that wait get their answers.
    """
    stuck = server.start()
    replies = []

    def hang() -> None:
        replies.append(server.post("execute", sandbox_id=stuck, command="sleep 1000").kind)

    threads = [threading.Thread(target=hang) for _ in range(40)]
    for thread in threads:
        thread.start()
    try:
        with within(30):
            other = server.start()
            done = server.post("execute", sandbox_id=other, command="echo fine").result["stdout"]
            assert done == "fine\n"
            assert server.get(f"get_status?sandbox_id={stuck}").result["is_alive"]
            assert server.get("/healthz").status == 200
            server.post("delete", sandbox_id=other)
    finally:
        server.post("delete", sandbox_id=stuck)
        for thread in threads:
            thread.join(30)
    assert set(replies) == {"sandbox_closed"}
    assert len(replies) == 40


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"sandbox_id": 3, "command": "true"}',
        b'{"sandbox_id": "x", "command": "true", "timeout": NaN}',
        b'{"sandbox_id": "x", "command": "true", "timeout": -1}',
        b'{"sandbox_id": "x", "command": "true", "timeout": 1' + b"0" * 5000 + b"}",
        b'{"sandbox_id": "x", "command": "\\ud800"}',
        b'{"sandbox_id": "x", "command": ' + b"[" * 100_000,
        b'{"sandbox_id": "x", "command": []}',
        b'{"sandbox_id": "x", "command": {"a": 1}}',
        b'{"sandbox_id": "", "command": "true"}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_bodies_that_make_no_sense(server: Server, body: bytes) -> None:
    """Are ROCK's "invalid parameter", with the field that is wrong."""
    reply = server.request(
        "POST", "/apis/envs/sandbox/v1/execute", body, {"Content-Type": "application/json"}
    )
    assert (reply.status, reply.kind) == (200, "invalid_parameter")
    assert reply.body["message"] == "invalid parameter"
    assert reply.body["error"].startswith("body")
    assert reply.body["result"] is None
