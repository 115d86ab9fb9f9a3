"""The GEM API over HTTP, against a server in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import rock_gym
from benchmarks.http_rows import crowd
from rock_gym.envs import SandboxVectorEnv
from rock_gym.gem import catalog
from tests.contract.support import below, eventually
from tests.server.conftest import Server
from tests.server.gem_client import SANDBOX, Client

GUESS = "game:GuessTheNumber-v0-hard"
SOKOBAN = "game:Sokoban-v0-easy"
# So many processes or descriptors at most.
ONE_SANDBOX = 16


def guess(number: int) -> str:
    return f"\\boxed{{{number}}}"


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    client = Client(server.port)
    yield client
    client.close()


def play(client: Client, sandbox_id: str, seed: int, guesses: list[int]) -> list[Any]:
    """Play an episode by these guesses until it ends."""
    found = [client.gem("reset", sandbox_id=sandbox_id, seed=seed).body]
    for number in guesses:
        answer = client.gem("step", sandbox_id=sandbox_id, action=guess(number))
        assert answer.status == 200
        found.append(answer.body)
        if answer.body["terminated"] or answer.body["truncated"]:
            break
    return found


def test_an_episode_is_that_of_the_library(client: Client, backend: str) -> None:
    guesses = [25, 12, 37, 1, 50, 3, 4, 5]
    sandbox_id = client.made(GUESS)
    episodes = [play(client, sandbox_id, seed, guesses) for seed in (42, 43, 42)]
    assert client.gem("close", sandbox_id=sandbox_id).body == {"sandbox_id": sandbox_id}
    assert episodes[0] == episodes[2] != episodes[1]
    assert set(episodes[0][0]) == {"observation", "info"}
    assert set(episodes[0][1]) == {"observation", "reward", "terminated", "truncated", "info"}
    assert episodes[0][-1]["terminated"]
    env = rock_gym.make(GUESS, backend=backend, observation="raw")
    try:
        observation, info = env.reset(seed=42)
        assert episodes[0][0] == {"observation": observation, "info": info}
        for number, turn in zip(guesses, episodes[0][1:], strict=False):
            assert list(turn.values()) == list(env.step(guess(number)))
    finally:
        env.close()


def test_text_is_what_an_agent_should_read(client: Client) -> None:
    raw, text = client.made(SOKOBAN), client.made(SOKOBAN, observation="text")
    plain = client.gem("reset", sandbox_id=raw, seed=1).body
    whole = client.gem("reset", sandbox_id=text, seed=1).body
    assert plain["info"]["suffix"] not in plain["observation"]
    assert plain["info"]["suffix"] in whole["observation"]


def test_list_names_all_of_gem(client: Client) -> None:
    found = client.gem("list").body["env_id"]
    assert found == [record.gem_id for record in catalog.RECORDS]
    sandbox_id = client.made(GUESS)
    assert client.gem("list", sandbox_id=sandbox_id).body["env_id"] == found
    assert client.gem("list", sandbox_id="sandbox-none").status == 500


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"env_id": "game:Sokobann-v0-easy"}, "did you mean game:Sokoban-v0-easy"),
        ({"env_id": "my:Env-v0"}, "GEM has no"),
        ({"env_id": "game:Crosswords-v0-random"}, "broken in GEM itself"),
        ({}, "env_id"),
        ({"env_id": GUESS, "env_ids": [GUESS]}, "either"),
        ({"env_id": GUESS, "group_size": 2}, "num_envs"),
        ({"env_id": GUESS, "num_envs": 3, "group_size": 2}, "does not divide"),
        ({"env_id": "rg:n_queens", "num_envs": 2, "envs_per_process": 2}, "must not share"),
        ({"env_id": GUESS, "num_envs": 2, "autoreset_mode": "Sometimes"}, "autoreset_mode"),
        ({"env_id": GUESS, "cpus": 1, "resources": {"cpu": "2"}}, "leave one out"),
        ({"env_id": GUESS, "memory": "much"}, "memory"),
        ({"env_id": GUESS, "kwargs": {"imports": ["os"]}}, "imports is not for GEM"),
        ({"env_id": GUESS, "num_envs": 100_000}, "--max-sandboxes"),
    ],
)
def test_what_cannot_be_made_is_refused(client: Client, body: dict[str, Any], reason: str) -> None:
    answer = client.gem("make", **body)
    assert (answer.status, answer.body["status"]) == (500, "Failed")
    assert reason in answer.body["detail"]
    assert answer.body["error"] == answer.body["detail"] == answer.body["result"]["failure_reason"]


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("make", {"env_id": 7}),
        ("make", {"env_id": GUESS, "num_env": 7}),
        ("make", {"env_id": GUESS, "step_timeout": -1}),
        ("reset", {"seed": 1}),
        ("reset", {"sandbox_id": "x", "seed": "one"}),
        ("reset", {"sandbox_id": "x", "seed": -1}),
        ("step", {"sandbox_id": "x"}),
        ("step", {"sandbox_id": "x", "action": 7}),
        ("step", {"sandbox_id": "x", "action": [7]}),
        ("step", {"sandbox_id": "", "action": "x"}),
        ("close", {}),
    ],
)
def test_what_is_of_the_wrong_type_is_refused(
    client: Client, call: str, body: dict[str, Any]
) -> None:
    """As ROCK does it: with the status 200."""
    answer = client.gem(call, **body)
    assert answer.status == 200
    assert (answer.body["status"], answer.body["message"]) == ("Failed", "invalid parameter")
    assert answer.body["error"].startswith("body")


def test_calls_out_of_order_are_refused(client: Client) -> None:
    sandbox_id = client.made(GUESS)

    def kinds(**body: Any) -> list[str]:
        answers = [
            client.gem("step", **{"sandbox_id": sandbox_id, "action": "x", **body}),
            client.gem("reset", sandbox_id=body.get("sandbox_id", sandbox_id), seed=[1]),
        ]
        assert all(answer.status == 500 for answer in answers)
        return [answer.body["kind"] for answer in answers]

    assert kinds() == ["reset_needed", "invalid_request"]  # no reset yet; it is no batch
    assert kinds(action=["x"])[0] == "invalid_request"
    client.gem("reset", sandbox_id=sandbox_id)
    assert client.gem("step", sandbox_id=sandbox_id, action="no guess").body["terminated"]
    assert kinds()[0] == "reset_needed"  # the episode is over
    client.gem("close", sandbox_id=sandbox_id)
    assert kinds() == ["sandbox_closed"] * 2
    again = client.gem("close", sandbox_id=sandbox_id)
    assert (again.status, again.body["kind"]) == (500, "sandbox_closed")
    assert kinds(sandbox_id="sandbox-none") == ["unknown_sandbox"] * 2


def test_strict_clients_get_real_statuses(client: Client) -> None:
    path = "/apis/v1/envs/gem/step"
    strict = {"X-Rock-Strict": "1"}
    answer = client.ask("POST", path, {"sandbox_id": "none", "action": "x"}, **strict)
    assert (answer.status, answer.body["kind"]) == (404, "unknown_sandbox")
    answer = client.ask("POST", path, {"sandbox_id": client.made(GUESS), "action": "x"}, **strict)
    assert (answer.status, answer.body["kind"]) == (409, "reset_needed")


# Environments of the operator's, which do what the action says. Where they share a sandbox they are
# played on the event loop, and else by threads.

SHARED = {"envs_per_sandbox": 8}


@pytest.fixture(params=["shared", "alone"])
def seats(request: pytest.FixtureRequest) -> dict[str, int]:
    """What makes environments share a sandbox, or not."""
    return SHARED if request.param == "shared" else {}


def test_values_that_json_has_not(client: Client, seats: dict[str, int]) -> None:
    sandbox_id = client.made("probe:Probe", kwargs={"given": [1]}, **seats)
    first = client.gem("reset", sandbox_id=sandbox_id, seed=1).body
    assert first["info"] == {"kwargs": {"given": [1]}}
    turn = client.gem("step", sandbox_id=sandbox_id, action="info").body
    assert (turn["reward"], turn["terminated"], turn["truncated"]) == (1.5, True, False)
    info = turn["info"]
    assert (info["nan"], info["inf"], info["bytes"]) == ("NaN", "Infinity", "\\xff\x00a")
    assert (info["array"], info["None"], info["set"]) == ([0, 1, 2], 0.5, [1, 2, 3])
    assert info["surrogate"] == "a\ufffdb"
    client.gem("reset", sandbox_id=sandbox_id)
    turn = client.gem("step", sandbox_id=sandbox_id, action="listinfo").body
    assert (turn["reward"], turn["info"]) == ("NaN", {"info": [1, 2]})
    client.gem("close", sandbox_id=sandbox_id)


def test_whatever_a_step_does_the_next_episode_begins(
    client: Client, seats: dict[str, int]
) -> None:
    sandbox_id = client.made("probe:Probe", step_timeout=1, **seats)
    for action, kind in (
        ("hang", "step_timeout"),
        ("die", "env_error"),
        ("raise ouch", "env_error"),
        ("badreward", "env_error"),
    ):
        client.gem("reset", sandbox_id=sandbox_id, seed=1)
        answer = client.gem("step", sandbox_id=sandbox_id, action=action)
        assert (answer.status, answer.body["kind"]) == (500, kind)
        assert "reward" not in answer.body  # a fault is none
        assert client.gem("step", sandbox_id=sandbox_id, action="x").body["kind"] == "reset_needed"
    assert client.gem("reset", sandbox_id=sandbox_id, seed=13).body["kind"] == "env_error"
    assert client.gem("step", sandbox_id=sandbox_id, action="x").body["kind"] == "reset_needed"
    client.gem("reset", sandbox_id=sandbox_id, seed=1)
    long = "x" * 300_000  # more than a socket takes at once
    turn = client.gem("step", sandbox_id=sandbox_id, action=f"echo {long}").body
    assert turn["observation"] == long
    client.gem("close", sandbox_id=sandbox_id)


def test_one_of_a_batch_fails_alone(client: Client, seats: dict[str, int]) -> None:
    sandbox_id = client.made("probe:Probe", num_envs=3, step_timeout=1, **seats)
    client.gem("reset", sandbox_id=sandbox_id, seed=1)
    actions = ["echo fine", "die", "hang"]
    turn = client.gem("step", sandbox_id=sandbox_id, action=actions).body
    assert turn["observation"][0] == "fine"
    assert turn["info"]["fault"] == [None, "env_error", "step_timeout"]
    assert turn["reward"][1:] == [0.0] * 2
    assert turn["truncated"] == [False, True, True]
    turn = client.gem("step", sandbox_id=sandbox_id, action=["echo a"] * 3).body
    assert turn["observation"][0] == "a"
    assert "fault" not in turn["info"]
    client.gem("close", sandbox_id=sandbox_id)


@pytest.mark.parametrize(
    ("gem_id", "kind"),
    [
        ("probe:Fails", "env_error"),
        ("probe:Lacks", "env_unavailable"),
        ("probe:None", "invalid_request"),
    ],
)
def test_what_the_operator_has_may_fail_too(client: Client, gem_id: str, kind: str) -> None:
    assert client.gem("make", env_id=gem_id, **SHARED).body["kind"] == kind


def test_environments_that_run_actions_have_a_sandbox_each(client: Client) -> None:
    sandbox_id = client.made("rg:n_queens")
    assert "error" not in client.gem("reset", sandbox_id=sandbox_id, seed=3).body
    turn = client.gem("step", sandbox_id=sandbox_id, action="<answer>1</answer>").body
    assert turn["terminated"]
    assert client.gem("step", sandbox_id=sandbox_id, action="x").body["kind"] == "reset_needed"
    assert client.gem("close", sandbox_id=sandbox_id).status == 200


def test_an_environment_with_a_sandbox_to_itself_takes_commands(client: Client) -> None:
    sandbox_id = client.made(GUESS, envs_per_sandbox=1)

    def ask(verb: str, **body: Any) -> Any:
        answer = client.ask("POST", f"{SANDBOX}/{verb}", {"sandbox_id": sandbox_id, **body})
        assert answer.body["status"] == "Success", answer.body
        return answer.body["result"]

    ask("write_file", path="/tmp/a.txt", content="here")
    assert ask("execute", command="cat /tmp/a.txt")["stdout"] == "here"
    ask("create_session", session="main")
    assert ask("run_in_session", session="main", command="echo $((6 * 7))")["output"] == "42"
    assert client.gem("reset", sandbox_id=sandbox_id, seed=1).status == 200
    ask("stop")
    refused = client.ask("POST", f"{SANDBOX}/execute", {"sandbox_id": sandbox_id, "command": "ls"})
    assert refused.body["kind"] == "sandbox_closed"


def test_sandbox_verbs_know_environments(client: Client) -> None:
    sandbox_id, other = client.made(GUESS), client.made(GUESS)
    status = client.ask("GET", f"{SANDBOX}/get_status?sandbox_id={sandbox_id}").body["result"]
    assert status["state"] == "running"
    assert status["is_alive"]
    refused = client.ask("POST", f"{SANDBOX}/execute", {"sandbox_id": sandbox_id, "command": "ls"})
    assert refused.body["status"] == "Failed"
    assert "environment" in refused.body["error"]
    assert client.gem("reset", sandbox_id=sandbox_id).status == 200
    for _ in range(2):
        stopped = client.ask("POST", f"{SANDBOX}/stop", {"sandbox_id": sandbox_id})
        assert stopped.body["status"] == "Success"
    assert client.gem("reset", sandbox_id=sandbox_id).body["kind"] == "sandbox_closed"
    assert client.gem("reset", sandbox_id=other).status == 200


def test_use_puts_the_idle_deadline_off(client: Client) -> None:
    def due(sandbox_id: str) -> str:
        path = f"{SANDBOX}/sandboxes?page_size=500"
        items = client.ask("GET", path).body["result"]["items"]
        return next(each["auto_stop_time"] for each in items if each["sandbox_id"] == sandbox_id)

    sandbox_id = client.made(GUESS)
    dues = [due(sandbox_id)]
    client.gem("reset", sandbox_id=sandbox_id)
    dues.append(due(sandbox_id))
    client.gem("step", sandbox_id=sandbox_id, action=guess(1))
    dues.append(due(sandbox_id))
    assert dues == sorted(set(dues))


@pytest.mark.parametrize("more", [{}, {"num_envs": 2}])
def test_nobody_uses_it_and_it_is_closed(client: Client, more: dict[str, Any]) -> None:
    sandbox_id = client.made(GUESS, auto_clear_time_minutes=0.002, **more)

    def reason() -> str:
        return client.ask("GET", f"{SANDBOX}/is_alive?sandbox_id={sandbox_id}").body["result"][
            "message"
        ]

    assert eventually(lambda: "nobody used it" in reason())
    assert "nobody used it" in client.gem("reset", sandbox_id=sandbox_id).body["detail"]


# Batches


def same(answer: Any, expected: Any) -> bool:
    return [list(each) for each in answer] == [list(each) for each in expected]


@pytest.mark.parametrize("more", [{}, {"envs_per_process": 3}])
def test_a_batch_is_a_vector_environment(
    client: Client, backend: str, more: dict[str, int]
) -> None:
    options = {"num_envs": 3, "max_episode_steps": 2, "observation": "text"}
    sandbox_id = client.made(GUESS, **options, **more)
    actions = [[guess(1), guess(2), "none"], [guess(3)] * 3, [guess(4)] * 3]
    first = client.gem("reset", sandbox_id=sandbox_id, seed=5).body
    turns = [client.gem("step", sandbox_id=sandbox_id, action=each).body for each in actions]
    with SandboxVectorEnv(gem_id=GUESS, num_envs=3, max_episode_steps=2, backend=backend) as envs:
        observation, info = envs.reset(seed=5)
        assert first["observation"] == list(observation)
        assert first["info"]["suffix"] == list(info["suffix"])
        for chosen, turn in zip(actions, turns, strict=True):
            *expected, info = envs.step(chosen)
            assert same(list(turn.values())[:4], expected)
            assert {name: list(value) for name, value in info.items()} == turn["info"]
    assert turns[0]["terminated"] == [False, False, True]
    assert turns[1]["truncated"] == [True, True, False]


def test_parts_of_a_batch_take_turns(client: Client) -> None:
    made = client.gem("make", env_ids=[GUESS, SOKOBAN], group_size=2).body
    sandbox_id = made["sandbox_id"]
    assert made["num_envs"] == 4
    reason = client.gem("step", sandbox_id=sandbox_id, action=["x"], env_ids=[0]).body["kind"]
    assert reason == "reset_needed"
    first = client.gem("reset", sandbox_id=sandbox_id, seed=[1, 1, 2, 2]).body["observation"]
    assert first[0] == first[1] != first[2] == first[3]
    turn = client.gem("step", sandbox_id=sandbox_id, action=[guess(1), "up"], env_ids=[1, 3]).body
    assert turn["info"]["env_id"] == [1, 3]
    assert len(turn["observation"]) == len(turn["reward"]) == 2
    again = client.gem("reset", sandbox_id=sandbox_id, seed=[1], env_ids=[1]).body
    assert again["observation"] == [first[1]]
    for wrong in (
        {"action": ["x"], "env_ids": [4]},
        {"action": ["x", "y"], "env_ids": [1, 1]},
        {"action": ["x", "y"], "env_ids": [1]},
        {"action": "x"},
    ):
        answer = client.gem("step", sandbox_id=sandbox_id, **wrong)
        assert answer.body["kind"] == "invalid_request"
    answer = client.gem("reset", sandbox_id=sandbox_id, seed=[1, 2], env_ids=[0])
    assert answer.body["kind"] == "invalid_request"
    turn = client.gem("step", sandbox_id=sandbox_id, action=["x"] * 4)
    assert turn.status == 200


def test_a_batch_without_autoreset_says_who_is_over(client: Client) -> None:
    sandbox_id = client.made(GUESS, num_envs=2, autoreset_mode="Disabled")
    client.gem("reset", sandbox_id=sandbox_id, seed=1)
    turn = client.gem("step", sandbox_id=sandbox_id, action=["none", guess(1)]).body
    assert turn["terminated"] == [True, False]
    answer = client.gem("step", sandbox_id=sandbox_id, action=[guess(1)] * 2)
    assert answer.body["kind"] == "reset_needed"
    assert client.gem("reset", sandbox_id=sandbox_id, env_ids=[0]).status == 200
    assert client.gem("step", sandbox_id=sandbox_id, action=[guess(1)] * 2).status == 200
    assert client.gem("close", sandbox_id=sandbox_id).status == 200
    assert client.gem("close", sandbox_id=sandbox_id).status == 500


def test_a_batch_that_lacks_something_is_not_made(client: Client) -> None:
    answer = client.gem("make", env_ids=[GUESS, "game:Crosswords-v0-random"])
    assert answer.body["kind"] == "env_unavailable"


# Many


def test_a_crowd_plays_and_leaves_nothing(server: Server, client: Client) -> None:
    """As many clients as fill two sandboxes, each with a connection and an environment."""

    def held() -> tuple[int, int]:
        """Processes, and connections and sockets to environments."""
        pid = server.process.pid
        return len(below(pid)), len(os.listdir(f"/proc/{pid}/fd"))

    def left() -> bool:
        return any(now > then + ONE_SANDBOX for now, then in zip(held(), before, strict=True))

    before = held()
    done, _ = crowd(f"http://127.0.0.1:{server.port}", clients=100, steps=3)
    assert done >= 300
    # One sandbox without environments is kept for who comes next.
    assert eventually(lambda: not left()), (before, held())
