"""What the README and the pages of docs/ show works: code runs, commands and links are there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from rock_gym.cli import main
from tests.conftest import required, why_unusable
from tests.contract.images import base_tar
from tests.run_blocks import blocks
from tests.server.conftest import options_for, run_server

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = {page: blocks(page) for page in PAGES}
CONSOLE = [
    line.partition(" #")[0].strip()
    for page, found in CODE.items()
    for block in found
    if block.language == "console"
    for line in block.code.splitlines()
]
COMMANDS = sorted({line for line in CONSOLE if line.startswith("rock-gym ")})
# What ends a conversation.
TYPED = {"shell": "exit\n", "envs": "q\n"}
# Those that would get into other tests' way here, or take minutes, and who runs them.
RUN_ELSEWHERE = {
    "rock-gym reap": "tests/test_cli_machine.py",
    "rock-gym image build gem": ".ci/run",
}
RUNNABLE = [
    page for page, found in CODE.items() if {b.language for b in found} & {"python", "bash"}
]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where a server answers that was started as the pages say."""
    server = run_server(*options_for("bubblewrap"))
    try:
        yield server.port
    finally:
        server.end()


def write_root(path: Path) -> None:
    """Write a root directory that has what the pages use, and is imported at once."""
    busybox = shutil.which("busybox")
    if busybox is None:
        path.symlink_to(base_tar())
        return
    with tarfile.open(path, "w") as tar:
        tar.add(busybox, "bin/busybox")
        for name in ("bin/sh", "bin/cat", "bin/id", "bin/rm", "usr/local/bin/ls"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/bin/busybox"
            tar.addfile(link)


# They choose no backend unless they say so, and what is run for one is run for all.
@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_its_code_runs(page: Path, backend: str, port: int, tmp_path: Path) -> None:
    env = {
        **os.environ,
        "ROCK_GYM_DOCS_PORT": str(port),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    if "docker" not in required() and why_unusable("docker"):
        env["ROCK_GYM_DOCS_WITHOUT"] = "docker"
    folder = tmp_path / "here"
    folder.mkdir()
    if any("debian.tar" in block.code for block in CODE[page] if block.language == "bash"):
        write_root(folder / "debian.tar")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "tests" / "run_blocks.py"), str(page)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=folder,
        env=env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
@pytest.mark.parametrize("line", [line for line in COMMANDS if line not in RUN_ELSEWHERE])
def test_its_commands_work(
    line: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that somebody has to end, and that are not in code that runs."""
    _, name, *words = line.split()
    if name == "serve":
        monkeypatch.chdir(tmp_path)
        Path("token.txt").write_text("correct-horse")
        server = run_server(*words, env={"ROCK_GYM_DATA": str(tmp_path)})
        try:
            assert server.get("/healthz").status == 200
        finally:
            server.end()
        return
    done = subprocess.run(
        [sys.executable, "-m", "rock_gym", name, *words],
        input=TYPED.get(name, ""),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_every_extra_exists() -> None:
    """``tests/test_packaging.py`` installs them, and uses what they bring."""
    named = re.findall(r"pip install '\.\[([\w,]+)\]'", "".join(p.read_text() for p in PAGES))
    assert "server" in named
    there = metadata("rock-gym").get_all("Provides-Extra", [])
    assert {extra for each in named for extra in each.split(",")} <= set(there)


def test_every_make_target_exists() -> None:
    """``.ci/run`` begins with ``make demo``, as a reader would."""
    makefile = (ROOT / "Makefile").read_text()
    targets = [line.split()[1] for line in CONSOLE if line.startswith("make ")]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_command_exists() -> None:
    assert COMMANDS
    for _, *words in map(str.split, COMMANDS):
        result = CliRunner().invoke(main, [*words, "--help"])
        assert result.exit_code == 0, result.output


def test_links_of_the_readme_lead_somewhere() -> None:
    """Those of docs/ are checked as the site is built."""
    text = PAGES[0].read_text()
    for target in re.findall(r"""(?:\]\(|src="|href=")([^)#"]+)""", text):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_tests_that_are_named_are_there() -> None:
    named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", "".join(p.read_text() for p in PAGES))
    assert named
    for path, name in named:
        assert (ROOT / path).exists(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(), name


def test_the_site_builds(tmp_path: Path) -> None:
    """Strictly: a page that the navigation lacks, or a link into nowhere, fails."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for page in PAGES[1:]:
        name = "index.html" if page.stem == "index" else f"{page.stem}/index.html"
        assert (tmp_path / name).exists(), name


@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
@pytest.mark.parametrize("script", ["env_table", "demo_picture"])
def test_what_is_generated_is_current(script: str, backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"scripts.{script}", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
