"""The command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner, Result

import rock_gym
from rock_gym.cli import main
from rock_gym.cli_output import harmless


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_the_version() -> None:
    assert run("--version").output == f"rock-gym, version {rock_gym.__version__}\n"


def test_python_m_is_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rock_gym", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == run("--version").output


def test_every_environment_is_listed() -> None:
    listed = json.loads(run("envs", "--json").output)
    assert len(listed) == 172
    assert {
        "id": "gem-game/Sokoban-easy-v0",
        "gem_id": "game:Sokoban-v0-easy",
        "category": "game",
        "family": "Sokoban",
        "offline": True,
        "needs": None,
        "executes_actions": False,
    } in listed


def test_a_part_of_an_id_narrows_the_list() -> None:
    """In either spelling and any case."""
    for pattern in ("game:sokoban", "gem-game/Sokoban"):
        assert {row["gem_id"] for row in json.loads(run("envs", pattern, "--json").output)} == {
            "game:Sokoban-v0-easy",
            "game:Sokoban-v0-hard",
            "game:Sokoban-v0-random",
        }
    assert "gem-game/Sokoban-easy-v0" in run("envs", "sokoban").output


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["game:s*-easy"], {"game:Sokoban-v0-easy", "game:Sudoku-v0-easy"}),
        (["--family", "Wordle"], {f"game:Wordle-v0-{kind}" for kind in ("easy", "hard", "random")}),
        (["search", "--offline"], {"game:WordSearch-v0-easy"}),
        (["--family", "logic", "d5"], {"logic:RuleTaker-d5"}),
    ],
)
def test_globs_families_and_what_works_offline(words: list[str], ids: set[str]) -> None:
    assert {row["gem_id"] for row in json.loads(run("envs", *words, "--json").output)} == ids


def test_what_an_environment_lacks_is_told() -> None:
    assert "no: needs rock-gym[words]" in run("envs", "WordSearch-v0-hard").output
    assert "no: needs a data set" in run("envs", "math:GSM8K").output


def test_an_error_is_one_line_with_the_next_command() -> None:
    result = run("envs", "no-such-thing")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "Error: no id holds 'no-such-thing'; see all with: rock-gym envs"
    ]
    result = run("envs", "--family", "logic", "--offline")
    assert result.output == (
        "Error: no environment is left with --family logic with --offline; "
        "see all with: rock-gym envs\n"
    )


def test_a_command_line_that_makes_no_sense() -> None:
    assert run("envs", "--no-such-option").exit_code == 2
    assert run("no-such-command").exit_code == 2


def test_texts_of_sandboxes_do_not_command_the_terminal() -> None:
    assert harmless("a\tb\r\nc\x1b[2J\x9b0m\x07") == "a\tb\nc\ufffd[2J\ufffd0m\ufffd"


def test_starting_up_is_quick() -> None:
    """Help and completion import neither rich nor any part that a command needs."""
    code = (
        "import sys; from rock_gym.cli import main; main(['--help'], standalone_mode=False); "
        "print([name for name in ('rich', 'rock_gym.sandbox', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_exit_codes_say_what_kind_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the help says what they mean."""
    assert "3    this machine lacks something" in run("--help").output
    assert run("exec", "--memory", "much", "true").exit_code == 2
    assert run("run", "game:Sokoban-v0-easy", "--backend", "nope").exit_code == 2
    assert run("image", "rm", "no-such-image").exit_code == 3
    assert run("image", "export", "no-such-image", "/nowhere/out").exit_code == 3
    monkeypatch.setattr(
        "rock_gym.sandbox.Sandbox.start", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    result = run("exec", "true")
    assert (result.exit_code, result.stderr) == (130, "Error: interrupted\n")


def test_every_result_can_be_had_as_json() -> None:
    """Of all commands but those that are a conversation, print a script, or serve."""
    talking = {"serve", "shell", "completion", "install"}

    def without(command: click.Command, name: str) -> list[str]:
        if isinstance(command, click.Group):
            inner = command.commands.items()
            return [each for key, sub in inner for each in without(sub, f"{name} {key}")]
        options = {option for param in command.params for option in param.opts}
        return [] if "--json" in options or name.split()[-1] in talking else [name]

    assert without(main, "rock-gym") == []


def test_what_goes_into_a_pipe_is_a_line_each() -> None:
    """However narrow a terminal would be."""
    done = subprocess.run(
        [sys.executable, "-m", "rock_gym", "envs"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "30"},
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 173
    assert "gem-game/Game2048-extreme-hard-v0" in [words[0] for words in lines]
