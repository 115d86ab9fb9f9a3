"""How sandboxes are started, looked at and ended over HTTP."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract.support import eventually
from tests.server.conftest import IMAGE, SANDBOXES, Server


def test_resources_nested_and_flat(server: Server) -> None:
    """Both count, numbers may be strings, and a contradiction is refused."""
    flat = server.post("start", image=IMAGE, cpus="0.5", memory="512m").result
    assert (flat["cpus"], flat["memory"]) == (0.5, "512.00m")
    status = server.get(f"get_status?sandbox_id={flat['sandbox_id']}").result
    assert (status["cpus"], status["memory"], status["image"]) == (0.5, "512.00m", IMAGE)
    server.post("delete", sandbox_id=flat["sandbox_id"])
    both = server.post("start", image=IMAGE, memory="1g", resources={"memory": "2g"})
    assert both.kind == "invalid_request"
    assert "twice" in both.body["error"]


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"image": "no/such:image"}, "image_not_found"),
        ({"image": "/etc"}, "invalid_request"),
        ({"image": " "}, "invalid_parameter"),
        ({}, "invalid_parameter"),
        ({"image": IMAGE, "memory": "much"}, "invalid_request"),
        ({"image": IMAGE, "image_os": "windows"}, "invalid_request"),
        ({"image": IMAGE, "use_kata_runtime": True}, "invalid_request"),
        ({"image": IMAGE, "sandbox_id": "../../x y;z"}, "invalid_request"),
    ],
)
@pytest.mark.parametrize("verb", ["start", "start_async"])
def test_what_cannot_be_started(
    server: Server, verb: str, asked: dict[str, object], kind: str
) -> None:
    """Is said at once, with ROCK's code, and nothing stays."""
    before = server.get("sandboxes").result["total"]
    reply = server.post(verb, **asked)
    assert (reply.status, reply.kind) == (200, kind)
    if kind != "invalid_parameter":
        assert reply.body["result"]["code"] == 4000
        assert reply.body["result"]["failure_reason"] == reply.body["error"]
    assert server.get("sandboxes").result["total"] == before


def test_an_unknown_image_names_the_option(server: Server) -> None:
    """There is no alias that nobody has asked for."""
    error = server.post("start", image="python:2.7").body["error"]
    assert "--image-alias python:2.7=" in error


def test_an_id_of_the_clients_own(server: Server) -> None:
    name = "my.own-Id_1"
    assert server.post("start", image=IMAGE, sandbox_id=name).result["sandbox_id"] == name
    again = server.post("start", image=IMAGE, sandbox_id=name)
    assert again.kind == "duplicate_id"
    assert again.body["result"]["code"] == 4000
    assert server.post("execute", sandbox_id=name, command="true").result["exit_code"] == 0
    assert server.post("delete", sandbox_id=name).result
    assert server.post("delete", sandbox_id=name).kind == "sandbox_closed"
    # The id is free again.
    assert server.post("start", image=IMAGE, sandbox_id=name).result["sandbox_id"] == name
    server.post("delete", sandbox_id=name)


def test_stop_and_restart(server: Server) -> None:
    """Files stay, sessions do not, and each change of state is told."""
    name = server.start()
    server.post("write_file", sandbox_id=name, path="kept", content="yes")
    server.post("create_session", sandbox_id=name)
    for _ in range(2):
        assert server.post("stop", sandbox_id=name).result == f"{name} stopped"
    status = server.get(f"get_status?sandbox_id={name}").result
    assert (status["state"], status["is_alive"]) == ("stopped", False)
    assert isinstance(status["host_name"], str)
    assert isinstance(status["status"], dict)
    assert server.post("execute", sandbox_id=name, command="true").kind == "sandbox_closed"
    assert server.post("restart", sandbox_id=name).result["sandbox_id"] == name
    assert server.post("read_file", sandbox_id=name, path="kept").result["content"] == "yes"
    gone = server.post("run_in_session", sandbox_id=name, command="true")
    assert gone.kind == "session_closed"
    assert (
        server.request("POST", f"{SANDBOXES}/sandboxes/{name}/restart", None, {}).result[
            "sandbox_id"
        ]
        == name
    )
    history = server.get(f"get_status?sandbox_id={name}").result["state_history"]
    assert [each["event"] for each in history[:4]] == ["alive", "stop", "restart", "alive"]
    server.post("delete", sandbox_id=name)


def test_ids_that_stand_for_nothing(server: Server) -> None:
    """Stopping them is fine, as in ROCK; using them is not."""
    assert server.post("stop", sandbox_id="never").result == "never stopped"
    assert server.get("is_alive?sandbox_id=never").result["is_alive"] is False
    for verb in ("execute", "run_in_session"):
        assert server.post(verb, sandbox_id="never", command="true").kind == "unknown_sandbox"
    for verb in ("get_status", "get_sandbox_statistics"):
        assert server.get(f"{verb}?sandbox_id=never").kind == "unknown_sandbox"
    for verb in ("delete", "restart"):
        reply = server.post(verb, sandbox_id="never")
        assert (reply.kind, reply.body["result"]["code"]) == ("unknown_sandbox", 4000)


def test_lists_and_batches(server: Server, shared: str) -> None:
    mine = {"X-User-Id": "me", "X-Experiment-Id": "e1", "X-Namespace": "n"}
    name = server.post("start_async", mine, image=IMAGE).result["sandbox_id"]
    status = server.get(f"get_status?sandbox_id={name}").result
    assert [status[key] for key in ("user_id", "experiment_id", "namespace")] == ["me", "e1", "n"]
    found = server.get("sandboxes?user_id=me").result
    assert (found["total"], found["has_more"]) == (1, False)
    assert found["items"][0]["sandbox_id"] == name
    page = server.get("sandboxes?page=1&page_size=1").result
    assert (len(page["items"]), page["has_more"]) == (1, True)
    batch = server.post("sandboxes/batch", sandbox_ids=[shared, "never", name]).result
    assert [each["sandbox_id"] for each in batch["statuses"]] == [shared, name]
    server.post("delete", sandbox_id=name)


def test_the_unused_is_stopped_and_its_files_are_freed(server: Server) -> None:
    """A client that vanishes costs nothing for ever; every use puts it off."""
    name = server.start(auto_clear_time_minutes=1 / 60, auto_delete_seconds=0.5)
    busy = server.post("execute", sandbox_id=name, command="sleep 1.5")
    assert busy.result["exit_code"] == 0  # longer than the limit, and a use all the time
    assert eventually(lambda: not server.get(f"is_alive?sandbox_id={name}").result["is_alive"], 20)
    assert eventually(
        lambda: server.get(f"is_alive?sandbox_id={name}").result["message"].endswith("another one")
    )
    assert server.post("execute", sandbox_id=name, command="true").kind == "sandbox_closed"


def test_statistics(server: Server, shared: str) -> None:
    """In per cent, as ROCK has them, of CPU since the last call."""
    server.get(f"get_sandbox_statistics?sandbox_id={shared}")
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    server.post("execute", sandbox_id=shared, command=["python3", "-c", burn])
    found = server.get(f"get_sandbox_statistics?sandbox_id={shared}").result
    assert 0 < found["cpu"] <= 110
    assert 0 < found["mem"] < 100
    assert (found["net"], found["disk_log_percent"]) == (0, 0)
    assert found["raw"]["memory_limit_bytes"] == 8 << 30


def test_a_warm_start_is_quick(server: Server) -> None:
    """A later one of a kind is a spare, which ran before it was asked for; nobody else has it."""
    names = [server.start(memory="1g")]

    def found(name: str) -> dict[str, str]:
        status: dict[str, str] = server.get(f"get_status?sandbox_id={name}").result
        return status

    def is_spare() -> bool:
        names.append(server.start(memory="1g"))
        status = found(names[-1])
        return status["start_time"] < status["create_time"]

    assert eventually(lambda: b"rock_gym_spares{" in server.get("/metrics").raw)
    assert eventually(is_spare)
    with ThreadPoolExecutor(4) as threads:
        names += threads.map(lambda _: server.start(memory="1g"), range(4))
    assert len({found(name)["container"] for name in names}) == len(names)
    for name in names:
        server.post("delete", sandbox_id=name)


def test_commit(server: Server, backend: str) -> None:
    """Only where there is an image below; the answer suits old and new clients."""
    name = server.start()
    request = {
        "sandbox_id": name,
        "image_tag": "rock-gym-test/http:1",
        "username": "",
        "password": "",
    }
    reply = server.post("commit", **request)
    if backend == "bubblewrap":
        assert reply.kind == "invalid_request"
        assert "host" in reply.body["error"]
    else:
        assert reply.result["phase"] == "SUCCEEDED"
        assert (reply.result["exit_code"], reply.result["image_tag"]) == (0, request["image_tag"])
        assert server.get(f"commit/{name}").result["phase"] == "SUCCEEDED"
        subprocess.run(
            ["docker", "image", "rm", "-f", request["image_tag"]], check=True, capture_output=True
        )
    server.post("delete", sandbox_id=name)


def test_what_is_asked_for_only_by_the_client(server: Server) -> None:
    """Tokens of an object store: there is none, and the client then sends files itself."""
    assert server.get("get_token?account=primary").result is None
    assert server.post("sandboxes/x/archive").kind == "invalid_request"


def test_booleans_in_python_case(server: Server, shared: str) -> None:
    for text in ("True", "False", "true", "0"):
        query = f"sandbox_id={shared}&include_all_states={text}"
        assert server.get(f"get_status?{query}").result["is_alive"]
    assert (
        json.loads(server.get(f"get_status?sandbox_id={shared}&include_all_states=x").raw)[
            "message"
        ]
        == "invalid parameter"
    )
