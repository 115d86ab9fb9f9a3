"""The file: what is in it after a crash, a full disk or a fork."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from rock_gym.errors import CassetteError
from rock_gym.wrappers.cassette import Cassette, Writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tape.jsonl"


def written(path: Path, count: int = 3) -> Path:
    writer = Writer(path, {"kind": "env"})
    for number in range(count):
        writer.write({"number": number})
    writer.close()
    return path


def numbers(path: Path) -> list[int]:
    return [line["number"] for _, line in Cassette(path).lines()]


def test_each_line_is_in_the_file_at_once(path: Path) -> None:
    """Whoever is killed has lost nothing that was written."""
    writer = Writer(path, {"kind": "env"})
    writer.write({"number": 0})
    assert numbers(path) == [0]
    writer.close()
    writer.close()


@pytest.mark.parametrize("cut", [1, 5])
def test_a_torn_last_line_is_left_out(path: Path, cut: int) -> None:
    written(path)
    os.truncate(path, path.stat().st_size - cut)
    assert numbers(path) == [0, 1]


def test_a_broken_line_is_named(path: Path) -> None:
    lines = written(path).read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1][:9] + "\n", *lines[2:]]))
    with pytest.raises(CassetteError, match=r"line 2 of .* is broken"):
        numbers(path)


def test_no_recording_takes_the_place_of_another(path: Path) -> None:
    before = written(path).read_bytes()
    with pytest.raises(CassetteError, match="is there already"):
        Writer(path, {})
    assert path.read_bytes() == before


def test_a_disk_that_is_full(path: Path) -> None:
    """What was written stays readable, and so does what follows once there is room."""
    writer = Writer(path, {"kind": "env"})
    writer.write({"number": 0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, limits[1]))
    try:
        with pytest.raises(CassetteError, match="cannot be written: File too large"):
            writer.write({"number": 1, "text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes().endswith(b"}\n")
    writer.write({"number": 2})
    writer.close()
    assert numbers(path) == [0, 2]


def test_a_forked_child_does_not_write_into_it(path: Path) -> None:
    writer = Writer(path, {"kind": "env"})
    pid = os.fork()
    if pid == 0:
        try:
            writer.write({"number": 0})
        except CassetteError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    writer.close()
    assert numbers(path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no cassette"),
        ('{"kind": "env"}\n', "is no cassette"),
        ("no JSON\n", "line 1 .* is broken"),
        ('{"cassette": 99, "versions": {"rock_gym": "9.9"}}\n', "format 99.*use rock-gym 9.9"),
    ],
)
def test_files_that_are_no_cassettes(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(CassetteError, match=message):
        Cassette(path)


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(CassetteError, match="cannot be read: No such file"):
        Cassette(path)
    with pytest.raises(CassetteError, match="cannot be written: No such file"):
        Writer(path / "below", {})
