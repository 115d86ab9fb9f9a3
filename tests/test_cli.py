"""The command line."""

from __future__ import annotations

import json
import subprocess
import sys

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
