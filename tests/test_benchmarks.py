"""Every row of the benchmark can be measured, and told. How fast it is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import machine, report, run
from benchmarks.docker_cli import CONTAINER, DOCKER_EXEC, DOCKER_RUN
from benchmarks.peers import venvs
from benchmarks.peers.process import Peer, PeerFailed
from benchmarks.rock_rows import CLIENT, ROCKLET
from benchmarks.sandbox_rows import SWE_REX
from benchmarks.table import ROWS, Result, Row, Samples, Side, compare
from tests.conftest import why_unusable
from tests.gem.conftest import backend_or_skip

SCRIPT = Path(run.__file__)

# The same functions as those of other numbers of environments, and of another game.
REPEATED = (
    "vector step, 64 GuessTheNumber, one process each",
    "vector step, 256 GuessTheNumber, one process each",
    "vector step, 8 2048, one process each",
    "vector step, 64 2048, one process each",
    "vector step, 256 2048, one process each",
    "vector step, 64 2048, packed",
)
TESTED = [row for row in run.ordered() if row.name not in REPEATED]
ISSUE_ROWS = (
    "session command, builtin",
    "session command, `/bin/true`",
    "`execute`, embedded",
    "docker: `execute`",
    "fresh sandbox to first command",
    "warm `acquire`",
    "release seen by the caller",
    "sustained create-use-destroy",
    "memory of an idle sandbox",
    "memory of an env process",
    "GEM step, one env",
    "vector step, 64 GuessTheNumber, one process each",
    "vector step, 64 GuessTheNumber, packed",
    "REST step, 32 clients at once",
    "stragglers: step of one of 64 by `recv`",
    "growth: vector step per env, 1 024",
)


# Peers that may be missing: those that may not be installed, or give up, and an engine's.
FROM_PYPI = (SWE_REX, CLIENT, ROCKLET)
OF_DOCKER = (DOCKER_RUN, DOCKER_EXEC, CONTAINER)


@pytest.fixture(scope="module")
def lacking() -> dict[str, str]:
    """Peers that cannot be measured here, and why: without a network none can be installed."""
    reasons = {name: venvs.install(name) for name in venvs.REQUIREMENTS}
    reasons["docker"] = why_unusable("docker")
    return {name: reason for name, reason in reasons.items() if reason is not None}


def test_what_is_repeated_is_there() -> None:
    assert {row.name for row in ROWS} > set(REPEATED)


def test_no_two_rows_have_one_key() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)


def test_every_row_that_is_promised_is_there_and_held_to_something() -> None:
    held = {row.name for row in ROWS if row.bars}
    assert set(ISSUE_ROWS) <= held


@pytest.mark.parametrize("row", TESTED, ids=lambda row: row.key)
def test_each_row_runs(row: Row, lacking: dict[str, str]) -> None:
    backend_or_skip("docker" if row.name.startswith("docker") else "bubblewrap")
    samples = run.run_apart(row, scale=0.0001, cpu=0)
    assert samples.ours
    assert samples.floor
    assert set(samples.peers) | set(samples.missing) == set(row.peers)
    assert_as_wide_as_the_heading(report.line(Result(row, samples)))
    may_be_missing = {*FROM_PYPI, *(OF_DOCKER if "docker" in lacking else ())}
    assert set(samples.missing) <= may_be_missing, samples.missing
    if samples.missing:
        # Not installed, or it gave up: those from PyPI have time limits of their own that a busy
        # machine may exceed, and theirs are not what is tested.
        pytest.skip(f"measured without {samples.missing}; not here: {lacking}")


def assert_as_wide_as_the_heading(line: str) -> None:
    assert line.count(" | ") == len(report.HEADINGS) - 1


def test_a_run_leaves_a_report(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "-k", "import", "--scale", "0.05", "--no-install"]
    done = subprocess.run(
        [*command, "--write", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 3
    assert done.stdout.splitlines()[-1] in (tmp_path / "RESULTS.md").read_text()
    (told,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert told["ours"]["samples"] == told["floor"]["samples"] == 1
    assert "import rock_gym" in (tmp_path / "results.svg").read_text()


# The report, of figures that are made up


def find(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


@pytest.fixture
def session() -> Result:
    row = find("session command, builtin")
    return Result(row, Samples([1e-5] * 3, [5e-6] * 3, {"SWE-ReX": [0.1]}))


def test_a_row_says_what_it_must_reach_and_what_it_reached(session: Result) -> None:
    line = report.line(session)
    assert "**10 us (10–10)**" in line
    assert "SWE-ReX: 100 ms" in line
    assert "≥ 1500 × SWE-ReX: 10000, met<br>≤ 3 × floor: 2, met" in line
    assert "≤ 1.5 × floor: 2, **missed**" in line
    assert not session.misses("must")
    assert session.misses("aim")


def test_a_peer_that_is_missing_is_told_and_is_not_taken_for_met(session: Result) -> None:
    alone = Samples(session.samples.ours, session.samples.floor, missing={"SWE-ReX": "no network"})
    result = replace(session, samples=alone)
    line = report.line(result)
    assert "SWE-ReX: not measured (no network)" in line
    assert "≥ 1500 × SWE-ReX: not measured" in line
    assert result.misses("must")


def test_more_a_second_and_more_of_the_floors_throughput_are_better() -> None:
    sustained = Result(find("sustained create-use-destroy"), Samples([0.008], [0.006]))
    assert "≥ 100 /s: 125, met" in report.line(sustained)
    assert "≥ 250 /s: 125, **missed**" in report.line(sustained)
    rest = Result(find("REST step, 32 clients at once"), Samples([1e-4], [0.7e-4]))
    assert "≥ 60 % of the floor's throughput: 0.7, met" in report.line(rest)
    assert "≥ 85 % of the floor's throughput: 0.7, **missed**" in report.line(rest)
    above = Result(find("GEM step, one env"), Samples([2.2e-5], [2e-6]))
    assert "≤ 15 us above the floor: 20, **missed**" in report.line(above)


def test_the_report_names_the_machine_and_what_failed(session: Result, tmp_path: Path) -> None:
    failed = Result(find("first reset"), Samples(), "it broke | apart")
    assert_as_wide_as_the_heading(report.line(failed))
    report.write(tmp_path, [session, failed], machine.describe(), scale=1)
    page = (tmp_path / "RESULTS.md").read_text()
    assert "Rows that failed: first reset (any)." in page
    assert "Rows that miss their aim: session command, builtin (one)." in page
    assert "cores" in page
    assert "kernel Linux" in page
    told = json.loads((tmp_path / "results.json").read_text())
    assert [row["failed"] for row in told["rows"]] == [None, "it broke | apart"]


def test_profiles_are_shown_of_rows_that_miss(
    session: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "profiles.md"
    profiles.write_text("About.\n\n### session command\n\nIn bash.\n\n### first reset\n\nIn gem.\n")
    monkeypatch.setattr(report, "PROFILES", profiles)
    shown = report.where_time_goes([session])
    assert "### session command\n\nIn bash.\n" in shown
    assert "In gem" not in shown
    profiles.write_text("About.\n")
    assert "Not profiled yet: session command, builtin." in report.where_time_goes([session])


def test_profiles_are_of_rows_that_there_are() -> None:
    for section in report.PROFILES.read_text().split("\n### ")[1:]:
        title = section.partition("\n")[0].strip()
        assert any(row.name.startswith(title) for row in ROWS), title


# Rows and peers that break


def test_a_peer_that_breaks_is_left_out_and_the_others_go_on() -> None:
    def broken(count: int) -> list[float]:
        raise PeerFailed("it ended with 1: oh")

    one = Side(lambda count: [1.0] * count)
    samples = compare(3, one, one, {"good": one, "broken": Side(broken)})
    assert len(samples.ours) == len(samples.floor) == len(samples.peers["good"]) == 3
    assert samples.missing == {"broken": "it ended with 1: oh"}


def test_a_peer_that_does_not_come_up_says_why() -> None:
    with pytest.raises(PeerFailed, match=r"No module named benchmarks\.peers\.nobody"):
        Peer("nobody")


def test_a_peer_that_is_not_installed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROCK_GYM_BENCH_PEERS", str(tmp_path))
    with pytest.raises(PeerFailed, match=r"swe-rex==1\.4\.0 not installed"):
        Peer("swe_rex", venv="swe-rex")
    monkeypatch.setitem(venvs.REQUIREMENTS, "swe-rex", "swe-rex @ file:///nowhere/at-all.whl")
    assert "could not be installed" in str(venvs.install("swe-rex"))
    with pytest.raises(PeerFailed, match="could not be installed"):
        Peer("swe_rex", venv="swe-rex")


def test_a_row_that_fails_is_told_and_ends_nothing_else() -> None:
    result = run.result_of(replace(ROWS[0], name="a row that is not there"), scale=1, cpu=0)
    assert result.failed is not None
    assert "ValueError" in result.failed
    assert "**failed**: ValueError" in report.line(result)
