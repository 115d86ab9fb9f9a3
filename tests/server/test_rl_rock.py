"""The unmodified client of ROCK, from PyPI, against our server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rock_gym.images import trees
from tests.contract import images
from tests.server import rl_rock
from tests.server.conftest import IMAGE, Server, run_server
from tests.server.gem_client import Client

GUESS = "game:GuessTheNumber-v0-hard"


@pytest.fixture(scope="module")
def python() -> Path:
    return rl_rock.interpreter()


@pytest.fixture(scope="module")
def committer(
    request: pytest.FixtureRequest, backend: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server whose sandboxes can be committed."""
    if backend != "bubblewrap":
        yield request.getfixturevalue("server")
        return
    home: Path = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROCK_GYM_DATA", str(home / "data"))
        images.make_base(backend, IMAGE)
        running = run_server("--backend", backend, "--state", str(home / "state.sqlite"))
        yield running
        running.end()
    trees.remove(str(home))


def test_it_plays_an_episode_to_its_end(python: Path, server: Server) -> None:
    actions = [f"\\boxed{{{number}}}" for number in (25, 12, 37, 1, 50, 3, 4, 5)]
    wanted = {"env_id": GUESS, "seed": 42, "actions": actions}
    found = rl_rock.told(python, "rl_rock_play.py", server.port, json.dumps(wanted))
    client = Client(server.port)
    sandbox_id = client.made(GUESS)
    first = client.gem("reset", sandbox_id=sandbox_id, seed=42).body
    assert found["turns"][0] == list(first.values())
    for action, turn in zip(actions, found["turns"][1:], strict=False):
        answer = client.gem("step", sandbox_id=sandbox_id, action=action).body
        assert turn == list(answer.values())
    assert found["turns"][-1][2]
    client.close()
    assert "did you mean game:Sokoban-v0-easy" in found["failures"]["make"]
    assert "reset the environment first" in found["failures"]["step"]


def test_it_uses_sandboxes(python: Path, committer: Server, backend: str) -> None:
    tag = f"rock-gym-test/{uuid.uuid4().hex[:8]}:1"
    try:
        found = rl_rock.told(python, "rl_rock_sandboxes.py", committer.port, tag)
    finally:
        if backend == "docker":
            images.remove(backend, tag)
    assert found["alive"]
    assert found["execute"] == ["out\n", "err\n", 3]
    assert found["session"] == ["/tmp value", 0]
    assert found["alone"] == "hello"
    assert "7" in found["failed"]
    assert "Failed" in found["failed"]
    assert "main" in found["duplicate"]
    assert "main" in found["closed"]
    assert found["nohup"] == ["behind", 0]
    assert found["script"] == ["scripted", 0]
    assert found["file"] == "text é\n"
    assert found["upload"] == [True, str(256 * 5000)]
    assert found["folder"] == [0, "c"]
    assert found["stopped"] == "stopped"
    assert found["commit"] == ["SUCCEEDED", None]
    assert found["committed"] == "kept\n"
    assert found["restart"] == "kept\n"
    assert found["group"] == [str(number) for number in range(8)]


def test_what_it_puts_behind_may_have_ended_before_it_is_disowned(server: Server) -> None:
    """In the words of the client, for a command that is sooner than the next one."""
    shared = {"sandbox_id": server.start(), "session": "behind"}
    assert server.post("create_session", **shared).result["output"] == ""
    command = "nohup true > /tmp/out 2>&1 & echo PIDSTART${!}PIDEND; wait; disown"
    result = server.post("run_in_session", **shared, command=command, check="raise").result
    assert result["exit_code"] == 0
    assert "PIDEND" in result["output"]
    refused = server.post("run_in_session", **shared, command="disown %7", check="raise")
    assert refused.kind == "command_failed"
