"""Files in and out."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rock_gym.errors import FileError, SpecError
from tests.contract.support import within

NAMES = [
    "plain.txt",
    "with space",
    "  both ends  ",
    "line\nbreak",
    "tab\tand'quote\"s",
    "-rf",
    "*",
    "$HOME",
    "`id`",
    "é😀",
    "a" * 255,
    "deep/er/and/deeper/file",
    "./dot/../dot/file",
]


def test_text_and_bytes(sandbox: Any) -> None:
    """Both come back as they went in."""
    sandbox.write_file("t.txt", "héllo\r\nworld\n")
    assert sandbox.read_file("t.txt") == "héllo\r\nworld\n"
    assert sandbox.read_file("t.txt", encoding=None) == "héllo\r\nworld\n".encode()
    every = bytes(range(256))
    sandbox.write_file("b.bin", every)
    assert sandbox.read_file("b.bin", encoding=None) == every
    assert sandbox.read_file("b.bin", encoding="latin-1") == every.decode("latin-1")
    sandbox.write_file("empty", "")
    assert sandbox.read_file("empty") == ""


def test_piece_by_piece(sandbox: Any, tmp_path: Path) -> None:
    """A file goes in from a binary file, and is read as one, from anywhere in it."""
    data = os.urandom(3 << 20)
    source = tmp_path / "source"
    source.write_bytes(data)
    with source.open("rb") as file:
        sandbox.write_file("big", file, mode=0o600)
    with sandbox.open_file("big") as file:
        assert file.read(10) == data[:10]
        file.seek(2 << 20)
        assert b"".join(iter(lambda: file.read(1 << 18), b"")) == data[2 << 20 :]
    with pytest.raises(SpecError, match="binary file"):
        sandbox.write_file("big", 7)
    with pytest.raises(FileError):
        sandbox.open_file("/tmp")
    assert hashlib.sha256(sandbox.read_file("big", None)).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("name", NAMES)
def test_names(sandbox: Any, name: str) -> None:
    """Any name that the system takes; parents are made."""
    sandbox.write_file(name, "content")
    assert sandbox.read_file(name) == "content"
    assert sandbox.execute(["cat", "--", name]).stdout == "content"


def test_relative_paths_start_in_the_work_directory(sandbox: Any) -> None:
    sandbox.write_file("here", "x")
    assert sandbox.read_file(f"{sandbox.workdir}/here") == "x"
    sandbox.write_file("/tmp/there", "y")
    assert sandbox.execute("cat /tmp/there").stdout == "y"


def test_commands_and_files_see_each_other(sandbox: Any) -> None:
    sandbox.execute("printf from-inside > f; chmod 600 f")
    assert sandbox.read_file("f") == "from-inside"
    sandbox.write_file("f", "from-outside")
    assert sandbox.execute("cat f; stat -c ' %a' f").stdout == "from-outside 600\n"


def test_modes(sandbox: Any) -> None:
    """0644 unless told otherwise; a replaced file keeps its own."""
    sandbox.write_file("new", "x")
    sandbox.write_file("script", "#!/bin/sh\necho ran\n", mode=0o755)
    sandbox.write_file("secret", "x", mode=0o600)
    assert sandbox.execute("stat -c %a new script secret").stdout == "644\n755\n600\n"
    assert sandbox.execute("./script").stdout == "ran\n"
    sandbox.write_file("script", "#!/bin/sh\necho again\n")
    assert sandbox.execute("./script").stdout == "again\n"
    sandbox.write_file("script", "x", mode=0o400)
    assert sandbox.execute("stat -c %a script").stdout == "400\n"


def test_what_is_written_can_be_executed_at_once(sandbox: Any) -> None:
    """Nobody holds it open for writing any more: one of hundreds was told "Text file busy"."""
    for number in range(300):
        sandbox.write_file("script", f"#!/bin/sh\necho {number}\n", mode=0o755)
        assert sandbox.execute("./script").stdout == f"{number}\n"


def test_files_belong_to_who_runs_commands(sandbox: Any) -> None:
    """A command may change, move and remove what was written."""
    sandbox.write_file("made/parents/f", "x")
    assert (
        sandbox.execute(
            "test -O made && test -O made/parents/f && echo y >> made/parents/f && rm -r made"
        ).exit_code
        == 0
    )


def test_fifty_megabytes(start: Any) -> None:
    """Unchanged both ways."""
    sandbox = start(disk="200m")
    data = os.urandom(1 << 20) * 50
    with within(30):
        sandbox.write_file("big", data)
        digest = sandbox.execute("sha256sum big").stdout.split()[0]
        assert digest == hashlib.sha256(data).hexdigest()
        assert sandbox.read_file("big", encoding=None) == data


def test_a_reader_never_sees_half_a_file(sandbox: Any) -> None:
    """The new content takes the place of the old at once."""
    contents = {letter: letter * 2_000_000 for letter in "ab"}
    sandbox.write_file("f", contents["a"])
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(
            lambda: [sandbox.write_file("f", contents["ab"[n % 2]]) for n in range(40)]
        )
        while not writing.done():
            seen = sandbox.execute("wc -c < f; fold -w 1000 f | sort -u | wc -l").stdout.split()
            assert seen == ["2000000", "1"]
            assert sandbox.read_file("f") in contents.values()
        writing.result()


def test_a_failed_write_changes_nothing(start: Any) -> None:
    """No half file, no litter, and the space comes back."""
    sandbox = start(disk="8m")
    sandbox.write_file("d/f", "old")
    with within(20), pytest.raises(FileError) as caught:
        sandbox.write_file("d/f", b"x" * (64 << 20))
    assert caught.value.reason == "ENOSPC"
    assert sandbox.read_file("d/f") == "old"
    assert sandbox.execute("ls -A d").stdout == "f\n"
    sandbox.write_file("d/g", b"x" * (2 << 20))
    assert sandbox.execute("wc -c < d/g").stdout == f"{2 << 20}\n"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "ENOENT"),
        ("missing/dir/file", "ENOENT"),
        (".", "EISDIR"),
        ("/", "EISDIR"),
        ("/usr/", "EISDIR"),
        ("file/below", "ENOTDIR"),
        ("loop", "ELOOP"),
        ("a" * 256, "ENAMETOOLONG"),
        ("secret", "EACCES"),
    ],
)
def test_what_cannot_be_read(sandbox: Any, path: str, reason: str) -> None:
    """The error names the path and the cause."""
    sandbox.execute("touch file; ln -s loop loop; echo x > secret; chmod 000 secret")
    if reason == "EACCES" and sandbox.execute("cat secret").exit_code == 0:
        pytest.skip("the sandbox's user may read everything")
    with pytest.raises(FileError) as caught:
        sandbox.read_file(path)
    assert (caught.value.path, caught.value.reason) == (path, reason)
    assert caught.value.sandbox_id == sandbox.id


@pytest.mark.parametrize(
    ("path", "reasons"),
    [
        (".", {"EISDIR"}),
        ("/", {"EISDIR"}),
        ("dir", {"EISDIR"}),
        ("file/below", {"ENOTDIR"}),
        ("a" * 256, {"ENAMETOOLONG"}),
        ("/proc/nothing", {"ENOENT", "EACCES", "EPERM", "EROFS"}),
        ("/sys/nothing", {"ENOENT", "EACCES", "EPERM", "EROFS"}),
    ],
)
def test_what_cannot_be_written(sandbox: Any, path: str, reasons: set[str]) -> None:
    sandbox.execute("mkdir dir; touch file")
    with pytest.raises(FileError) as caught:
        sandbox.write_file(path, "x")
    assert caught.value.path == path
    assert caught.value.reason in reasons


def test_what_is_not_text(sandbox: Any) -> None:
    """Bytes that do not decode are an error that says how to read them."""
    sandbox.execute("printf '\\377\\376' > f")
    with pytest.raises(FileError, match="encoding") as caught:
        sandbox.read_file("f")
    assert caught.value.reason == "not_text"
    assert sandbox.read_file("f", encoding=None) == b"\xff\xfe"


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_paths_that_make_no_sense(sandbox: Any, path: str) -> None:
    for verb in (lambda: sandbox.read_file(path), lambda: sandbox.write_file(path, "x")):
        with pytest.raises(SpecError):
            verb()


def test_an_unknown_encoding(sandbox: Any) -> None:
    sandbox.write_file("f", "x")
    with pytest.raises(SpecError, match="no-such-encoding"):
        sandbox.read_file("f", encoding="no-such-encoding")


def test_pipes_and_devices_are_refused(sandbox: Any) -> None:
    """Reading one could wait for ever, or never end."""
    sandbox.execute("mkfifo fifo; ln -s fifo link")
    for path in ("fifo", "link", "/dev/zero", "/dev/stdin"):
        with within(5), pytest.raises(FileError):
            sandbox.read_file(path)


def test_writing_over_a_pipe_waits_for_nobody(sandbox: Any) -> None:
    sandbox.execute("mkfifo fifo")
    with within(5):
        try:
            sandbox.write_file("fifo", "x")
        except FileError:
            assert sandbox.execute("test -p fifo").exit_code == 0
        else:
            assert sandbox.read_file("fifo") == "x"


@pytest.mark.parametrize("path", ["/proc/version", "/proc/meminfo", "/proc/1/status"])
def test_files_that_claim_to_be_empty(sandbox: Any, path: str) -> None:
    """What the kernel makes up on the spot is read all the same."""
    assert len(sandbox.read_file(path)) > 10


def test_a_file_that_goes_while_it_is_read(sandbox: Any) -> None:
    """What is told of a process goes with it: text or a typed error, and nothing else."""
    for _ in range(100):
        try:
            assert sandbox.read_file("/proc/self/status").startswith("Name:")
        except FileError as error:
            assert error.reason in ("ESRCH", "ENOENT")


def test_links_lead_to_places_inside(sandbox: Any, tmp_path: Path) -> None:
    """Never to a file of the host."""
    host_file = tmp_path / "secret"
    host_file.write_text("of the host")
    sandbox.write_file("target", "inside")
    sandbox.execute(
        f"ln -s target link; ln -s {sandbox.workdir}/target absolute; ln -s {host_file} outside; "
        f"ln -s /proc/1/root/etc/passwd via-proc; mkdir d; ln -s {tmp_path} d/outside"
    )
    assert sandbox.read_file("link") == "inside"
    assert sandbox.read_file("absolute") == "inside"
    for path in ("outside", "d/outside/secret", str(host_file)):
        with pytest.raises(FileError):
            sandbox.read_file(path)
    inside = sandbox.execute("cat /etc/hostname", check=False).stdout
    sandbox.execute("ln -s /etc/hostname hostname")
    if inside:
        assert sandbox.read_file("hostname") == inside
    for path in ("outside", "d/outside/planted"):
        try:
            sandbox.write_file(path, "from inside")
        except FileError:
            continue
    assert host_file.read_text() == "of the host"
    assert os.listdir(tmp_path) == ["secret"]


def test_writing_through_a_link(sandbox: Any) -> None:
    """The link's path then gives the new content."""
    sandbox.write_file("target", "old")
    sandbox.execute("ln -s target link")
    sandbox.write_file("link", "new")
    assert sandbox.read_file("link") == "new"
    assert sandbox.execute("cat link").stdout == "new"


def test_links_that_change_while_they_are_followed(sandbox: Any, tmp_path: Path) -> None:
    """A race between two targets never reaches the host."""
    (tmp_path / "f").write_text("of the host")
    sandbox.execute("mkdir inside; echo inside > inside/f")
    session = sandbox.create_session("racer")
    session.run(f"(while :; do ln -sfn {tmp_path} d; ln -sfn inside d; done) >/dev/null 2>&1 &")
    for number in range(200):
        try:
            assert sandbox.read_file("d/f") in ("inside\n", *map(str, range(number)))
        except FileError as error:
            assert error.reason in ("ENOENT", "EAGAIN", "EACCES", "ELOOP", "EXDEV")
        try:
            sandbox.write_file("d/f", f"{number}")
        except FileError:
            continue
    assert (tmp_path / "f").read_text() == "of the host"


def test_sixteen_threads_at_once(sandbox: Any) -> None:
    def use(number: int) -> None:
        data = bytes([number]) * (1000 * number)
        sandbox.write_file(f"dir/{number}", data)
        assert sandbox.read_file(f"dir/{number}", encoding=None) == data

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(use, range(128)))


def test_many_small_files_leave_nothing_open(sandbox: Any) -> None:
    for number in range(300):
        sandbox.write_file("f", str(number))
        assert sandbox.read_file("f") == str(number)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(300):
        sandbox.write_file("f", str(number))
        sandbox.read_file("f")
    assert len(os.listdir("/proc/self/fd")) <= before + 2
