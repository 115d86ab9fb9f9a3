"""The commands about images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rock_gym.cli import main
from tests.images import archives as make


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROCK_GYM_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def archive(tmp_path: Path) -> str:
    return str(make.write(tmp_path / "archive", make.tar(("etc/x", b"text"))))


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["image", *words])


def listed() -> list[str]:
    return [
        row["name"] for row in json.loads(run("list", "--backend", "bubblewrap", "--json").output)
    ]


def test_an_image_s_life(archive: str, tmp_path: Path) -> None:
    """Imported, listed, exported, imported again, removed."""
    assert run("import", archive, "x").output.startswith("x:latest")
    assert listed() == ["x:latest"]
    assert "x:latest" in run("list").output
    out = str(tmp_path / "out.tar")
    assert run("export", "x", out).exit_code == 0
    assert run("import", out, "y:2").exit_code == 0
    assert run("rm", "x", "y:2").output == "x\ny:2\n"
    assert listed() == []


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    """One line, and nothing is there afterwards."""
    result = run("import", str(make.write(tmp_path / "bad", b"nothing" * 1000)), "x")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert len(result.output.splitlines()) == 1
    assert listed() == []


def test_a_limit(archive: str) -> None:
    result = run("import", archive, "x", "--max-size", "1k")
    assert result.exit_code == 1
    assert "--max-size" in result.output


@pytest.mark.parametrize("words", [("rm", "x"), ("export", "x", "out")])
def test_an_image_that_is_not_there(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 3
    assert "rock-gym image list" in result.output
