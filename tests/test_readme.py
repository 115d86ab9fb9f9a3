"""What the README shows works: its Python runs, its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rock_gym.cli import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
CONSOLE = [
    line.strip() for language, code in BLOCKS if language == "console" for line in code.splitlines()
]


# They choose no backend, so what is run for one is run for all.
@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.strip().splitlines()[-1][:30])
def test_every_python_block_runs(code: str, backend: str, tmp_path: Path) -> None:
    """In a process of its own, as a reader would."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [line.split()[1] for line in CONSOLE if line.startswith("make ")]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_command_exists() -> None:
    commands = [line.split() for line in CONSOLE if line.startswith("rock-gym ")]
    assert commands
    for _, *words in commands:
        result = CliRunner().invoke(main, [*words, "--help"])
        assert result.exit_code == 0, result.output


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if "://" not in target:
            assert (ROOT / target).exists(), target
