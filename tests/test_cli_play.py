"""The commands that play, record and run: envs --try, run, replay and exec, in real sandboxes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rock_gym.cli import main
from rock_gym.wrappers import Replay

# One backend is enough: what differs between them is tested beneath.
pytestmark = pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True, scope="session")

GUESS = "game:GuessTheNumber-v0-easy"

# A policy that stops every sandbox of the process before its first move.
WILD = """
import gc
from rock_gym import Sandbox

def wild(observation, info):
    for sandbox in [each for each in gc.get_objects() if type(each) is Sandbox]:
        sandbox.stop()
    return "1"
"""


def run(*words: str, **kwargs: Any) -> Result:
    return CliRunner().invoke(main, words, **kwargs)


def episodes(*words: str) -> list[dict[str, Any]]:
    result = run("run", *words, "--json")
    assert result.exit_code == 0, result.output
    return [
        {key: value for key, value in episode.items() if key != "took_s"}
        for episode in json.loads(result.stdout)["episodes"]
    ]


class TestRun:
    def test_a_seed_says_it_all(self, backend: str) -> None:
        """One after the other and at the same time give the same episodes."""
        alone = episodes(GUESS, "-n", "5", "--seed", "3")
        assert [episode["seed"] for episode in alone] == [3, 4, 5, 6, 7]
        assert all(episode["end"] in ("terminated", "truncated") for episode in alone)
        assert episodes(GUESS, "-n", "5", "--seed", "3", "--num-envs", "3") == alone

    def test_a_table(self, backend: str) -> None:
        lines = run("run", "gem-game/GuessTheNumber-easy-v0", "-n", "2").output.splitlines()
        assert lines[0].split() == ["episode", "seed", "steps", "return", "end", "seconds"]
        assert [line.split()[0] for line in lines[1:3]] == ["0", "1"]
        assert "2 episodes" in lines[3]

    def test_a_policy_and_lines_of_json(
        self, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A function of a module here gives the actions, or None to give up."""
        (tmp_path / "my_policy.py").write_text(
            "def low(observation, info):\n"
            "    return None if 'turn 2' in observation else '\\\\boxed{1}'\n"
        )
        monkeypatch.chdir(tmp_path)
        result = run("run", GUESS, "-n", "2", "--policy", "my_policy:low", "--jsonl", "out.jsonl")
        assert result.exit_code == 0, result.output
        lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
        assert [(line["steps"], line["end"]) for line in lines] == [(2, "given up")] * 2

    @pytest.mark.parametrize("num_envs", ["1", "2"])
    def test_a_script(self, backend: str, num_envs: str) -> None:
        words = ("run", GUESS, "-n", "2", "--actions", "-", "--jsonl", "-", "--num-envs", num_envs)
        result = run(*words, input="\\boxed{1}\n\n\\boxed{1}\n")
        assert result.exit_code == 0, result.output
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [(line["steps"], line["end"]) for line in lines] == [(2, "given up")] * 2

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (["game:GuessTheNumber-easy"], 1, "did you mean game:GuessTheNumber-v0-easy"),
            ([GUESS, "--policy", "no_such_module:f"], 2, "no module 'no_such_module'"),
            ([GUESS, "--policy", "json:f"], 2, "json has no f"),
            ([GUESS, "--policy", "f"], 2, "MODULE:FUNCTION"),
            ([GUESS, "-n", "0"], 2, "0 is not in the range"),
            (["eval:AIME24", "--backend", "nope"], 2, "backend"),
        ],
    )
    def test_what_makes_no_sense(
        self, backend: str, words: list[str], code: int, message: str
    ) -> None:
        result = run("run", *words)
        assert (result.exit_code, message in result.stderr) == (code, True), result.output


class TestReplay:
    @pytest.fixture(params=["1", "3"], ids=["single", "vector"])
    def tape(self, request: pytest.FixtureRequest, backend: str, tmp_path: Path) -> Path:
        path = tmp_path / "tape.jsonl"
        result = run("run", GUESS, "-n", "4", "--num-envs", request.param, "--record", str(path))
        assert result.exit_code == 0, result.output
        return path

    def test_as_recorded_or_not(self, tape: Path, tmp_path: Path) -> None:
        result = run("replay", str(tape))
        assert result.exit_code == 0
        assert "4 episodes" in result.output
        assert "all as recorded" in result.output
        assert json.loads(run("replay", str(tape), "--json").output)["difference"] is None
        other = tmp_path / "other.jsonl"
        other.write_text(tape.read_text().replace("Enter your next guess.", "Next guess?"))
        result = run("replay", str(other))
        assert result.exit_code == 1
        # Of several at a time, any may have been the first.
        assert re.search(r"line 2, environment \d, episode 1, reset differs in obs", result.output)
        assert len(result.output.splitlines()) == 3
        assert json.loads(run("replay", str(other), "--json").output)["difference"]["line"] == 2

    def test_a_page(self, tape: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        result = run("replay", str(tape), "--html", str(page))
        assert result.output == f"{page}: 4 episodes\n"
        assert "You are playing Guess The Number" in page.read_text()

    def test_without_a_sandbox(self, tape: Path) -> None:
        env: Any = Replay(tape)
        if env.cassette.is_vector:
            env.send_reset()
            observation = env.recv()[0][0]
        else:
            observation = env.reset(seed=0)[0]
        assert "Guess The Number" in observation

    def test_no_cassette(self, backend: str, tmp_path: Path) -> None:
        result = run("replay", str(tmp_path / "none"))
        assert result.exit_code == 1
        assert "cannot be read" in result.stderr
        assert len(result.stderr.splitlines()) == 1


class TestByHand:
    def test_a_game(self, backend: str) -> None:
        """What is typed goes into the box; Enter alone plays a move; the end asks for more."""
        words = ("envs", "--try", GUESS, "--seed", "3", "--backend", backend)
        result = run(*words, input="1\n\\boxed{1}\n\n1\nno\n")
        assert result.exit_code == 0, result.output
        assert "guessed 1" in result.output
        assert result.output.count("\\boxed{1}") >= 2
        assert "after 4 turns, return" in result.output
        assert "Again?" in result.output

    def test_the_end_of_input_is_the_end(self, backend: str) -> None:
        result = run("envs", "--try", GUESS, input="q\n")
        assert result.exit_code == 0
        assert run("envs", "--try", GUESS, input="").exit_code == 0

    def test_an_unknown_one(self, backend: str) -> None:
        result = run("envs", "--try", "nope")
        assert result.exit_code == 1
        assert result.stderr == "Error: no environment 'nope': see all with: rock-gym envs\n"


class TestExec:
    def test_output_and_exit_code_are_passed_on(self, backend: str) -> None:
        script = 'echo "$X in $PWD"; echo oops >&2; exit 7'
        result = run("exec", "--env", "X=1", "--cwd", "/tmp", "--", "sh", "-c", script)
        assert result.exit_code == 7
        assert result.stdout == "1 in /tmp\n"
        assert result.stderr == "oops\n"

    def test_all_of_it_as_json(self, backend: str) -> None:
        result = run("exec", "--json", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
        assert result.exit_code == 3
        assert json.loads(result.stdout) == {
            "exit_code": 3,
            "stdout": "out\n",
            "stderr": "err\n",
            "truncated": False,
        }

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (["--timeout", "0.2", "--", "sleep", "60"], 124, "longer than 0.2 s"),
            (["--image", "no-such-image", "--backend", "bubblewrap", "true"], 125, "no-such-image"),
            (["no-such-program"], 127, "no-such-program"),
            (["--env", "X", "true"], 2, "NAME=VALUE"),
            (["--memory", "much", "true"], 2, "memory must be a number"),
            ([], 2, "Missing argument"),
        ],
    )
    def test_exit_codes(self, backend: str, words: list[str], code: int, message: str) -> None:
        result = run("exec", *words)
        assert (result.exit_code, message in result.stderr) == (code, True), result.output


class TestFaults:
    """Last, as the sandboxes that others have used are gone then."""

    def test_a_fault_is_told(
        self, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With exit code 1, and as the end of its episode."""
        (tmp_path / "wild_policy.py").write_text(WILD)
        monkeypatch.chdir(tmp_path)
        result = run("run", GUESS, "-n", "2", "--policy", "wild_policy:wild", "--json")
        assert result.exit_code == 1
        assert "2 of 2 episodes ended by a fault" in result.stderr
        assert json.loads(result.stdout)["faults"] == 2
