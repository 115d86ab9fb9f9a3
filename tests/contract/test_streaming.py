"""Output as it comes, by callback and by iteration."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rock_gym.errors import (
    CommandFailed,
    CommandTimeout,
    FileError,
    SandboxClosed,
    SandboxLost,
    SpecError,
)
from tests.contract.support import eventually, members, wait_gone, within

# Prints a line, and goes on only when it has been seen: a file of that name appears.
DIALOGUE = "for n in 1 2 3; do echo line $n; until test -e seen$n; do sleep 0.01; done; done"


def answering(sandbox: Any) -> tuple[list[tuple[str, str]], Callable[[str, str], None]]:
    """What was heard, and a callback that lets DIALOGUE go on."""
    heard: list[tuple[str, str]] = []

    def hear(stream: str, text: str) -> None:
        heard.append((stream, text))
        for line in text.splitlines():
            sandbox.write_file(f"seen{line.split()[1]}", "")

    return heard, hear


def test_a_callback_hears_output_while_the_command_runs(sandbox: Any) -> None:
    heard, hear = answering(sandbox)
    with within(10):
        result = sandbox.execute(DIALOGUE, on_output=hear)
    assert heard == [("stdout", f"line {n}\n") for n in (1, 2, 3)]
    assert result.stdout == "line 1\nline 2\nline 3\n"


def test_a_callback_of_a_session(sandbox: Any) -> None:
    heard, hear = answering(sandbox)
    session = sandbox.create_session()
    with within(10):
        result = session.run(DIALOGUE, on_output=hear)
    assert heard == [("stdout", f"line {n}\n") for n in (1, 2, 3)]
    assert result.output == "line 1\nline 2\nline 3\n"
    sandbox.execute("rm seen*")
    heard.clear()
    sandbox.run_in_session(session.name, DIALOGUE, on_output=hear)
    assert len(heard) == 3


def test_iterating(sandbox: Any) -> None:
    _, hear = answering(sandbox)
    pieces = []
    with within(10), sandbox.stream(DIALOGUE) as stream:
        for chunk in stream:
            assert stream.result is None
            pieces.append(chunk)
            hear(chunk.stream, chunk.text)
    assert [(piece.stream, piece.text) for piece in pieces] == [
        ("stdout", f"line {n}\n") for n in (1, 2, 3)
    ]
    assert (stream.result.stdout, stream.result.exit_code) == ("line 1\nline 2\nline 3\n", 0)


def test_both_streams(sandbox: Any) -> None:
    """Each under its name, complete, with the true exit code."""
    command = "for n in $(seq 200); do echo out $n; echo err $n >&2; done; exit 7"
    heard: dict[str, str] = {"stdout": "", "stderr": ""}

    def hear(stream: str, text: str) -> None:
        heard[stream] += text

    result = sandbox.execute(command, on_output=hear)
    assert heard == {"stdout": result.stdout, "stderr": result.stderr}
    assert result.exit_code == 7
    assert result.stdout.splitlines()[-1] == "out 200"
    streamed: dict[str, str] = {"stdout": "", "stderr": ""}
    stream = sandbox.stream(command)
    for chunk in stream:
        streamed[chunk.stream] += chunk.text
    assert streamed == heard
    assert stream.result == result


def test_an_argument_list_a_directory_and_variables(sandbox: Any) -> None:
    sandbox.execute("mkdir d")
    stream = sandbox.stream(["sh", "-c", 'pwd; echo "$X" "$0"', "a b"], cwd="d", env={"X": "y  z"})
    assert "".join(chunk.text for chunk in stream) == f"{sandbox.workdir}/d\ny  z a b\n"


def test_characters_are_never_torn(sandbox: Any) -> None:
    """A character whose bytes come apart arrives as one; what is none is shown as ever."""
    command = (
        "printf '\\303'; sleep 0.1; printf '\\251'; sleep 0.1; printf '\\377'; sleep 0.1; "
        "printf '\\360\\237'; sleep 0.1; printf '\\230\\200\\303'"
    )
    pieces: list[str] = []
    result = sandbox.execute(command, on_output=lambda _, text: pieces.append(text))
    assert "".join(pieces) == result.stdout == "é\\xff😀\\xc3"
    assert {"é", "😀"} <= set("".join(pieces))
    assert all("\\xc3" not in piece for piece in pieces[:-1])
    assert "".join(chunk.text for chunk in sandbox.stream(command)) == result.stdout
    session = sandbox.create_session()
    heard: list[str] = []
    session.run(command, on_output=lambda _, text: heard.append(text))
    assert "".join(heard) == result.stdout


def test_more_than_is_kept(sandbox: Any) -> None:
    """All of it is handed on; the result keeps its two ends."""
    size = [0]

    def count(_: str, text: str) -> None:
        size[0] += len(text)

    result = sandbox.execute("head -c 5000000 /dev/zero | tr '\\0' x", on_output=count)
    assert (size[0], result.truncated) == (5_000_000, True)
    stream = sandbox.stream("head -c 5000000 /dev/zero | tr '\\0' x")
    assert sum(len(chunk.text) for chunk in stream) == 5_000_000
    assert stream.result.truncated
    assert len(stream.result.stdout) < 1_200_000


@pytest.mark.parametrize("command", ["sleep 1000", "while :; do echo x; done", "yes >&2"])
def test_timeouts(sandbox: Any, command: str) -> None:
    inside = members(sandbox)
    session = sandbox.create_session()
    ignore = lambda *_: None  # noqa: E731
    for run in (
        lambda: sandbox.execute(command, timeout=0.3, on_output=ignore),
        lambda: session.run(command, timeout=0.3, on_output=ignore),
        lambda: list(sandbox.stream(command, timeout=0.3)),
    ):
        with within(5), pytest.raises(CommandTimeout):
            run()
    assert eventually(lambda: len(members(sandbox)) <= len(inside) + 2)
    assert session.run("echo fine").output == "fine\n"


def test_check(sandbox: Any) -> None:
    stream = sandbox.stream("echo why >&2; exit 3", check=True)
    with pytest.raises(CommandFailed) as caught:
        list(stream)
    assert (caught.value.exit_code, caught.value.output) == (3, "why\n")
    assert stream.result.exit_code == 3


class Complaint(Exception):
    pass


def complain(*_: str) -> None:
    raise Complaint


@pytest.mark.parametrize("command", ["yes", "echo once; sleep 1000", "while :; do echo x; done"])
def test_a_callback_that_raises_ends_the_command(sandbox: Any, command: str) -> None:
    """With what it raised; nothing runs on, and the session can be used."""
    session = sandbox.create_session()
    session.run("kept=here")
    inside = members(sandbox)
    for run in (
        lambda: sandbox.execute(command, on_output=complain),
        lambda: session.run(command, on_output=complain),
    ):
        with within(8), pytest.raises(Complaint):
            run()
    assert session.run("echo fine").output == "fine\n"
    assert eventually(lambda: len(members(sandbox)) <= len(inside) + 2)


def test_a_callback_that_raises_at_the_very_end(sandbox: Any) -> None:
    with pytest.raises(Complaint):
        sandbox.execute("printf '\\303'", on_output=complain)
    assert sandbox.execute("echo fine").stdout == "fine\n"


@pytest.mark.parametrize("way", ["break", "close", "with", "forgotten"])
def test_leaving_before_the_end_kills_the_command(sandbox: Any, way: str) -> None:
    before = members(sandbox)
    stream = sandbox.stream("echo here; sleep 1000; echo never")
    if way == "with":
        with stream:
            assert next(iter(stream)).text == "here\n"
    elif way == "break":
        for _ in stream:
            break
    else:
        iterator = iter(stream)
        assert next(iterator).text == "here\n"
        if way == "close":
            stream.close()
            stream.close()
        else:
            del iterator, stream
    assert eventually(lambda: members(sandbox) - before == set() or len(members(sandbox)) <= 3)
    assert sandbox.execute("ps ax 2>/dev/null | grep '[s]leep 1000'").stdout == ""


def test_what_cannot_be_started(sandbox: Any) -> None:
    with pytest.raises(FileError):
        sandbox.stream(["no-such-program"])
    with pytest.raises(FileError):
        sandbox.stream("true", cwd="missing")
    for nonsense in ([], 7, "a\0b"):
        with pytest.raises(SpecError):
            sandbox.stream(nonsense)
    with pytest.raises(SpecError):
        sandbox.stream("true", timeout=-1)


def test_a_sandbox_that_is_stopped_meanwhile(sandbox: Any) -> None:
    stream = sandbox.stream("echo here; sleep 1000")
    iterator = iter(stream)
    next(iterator)
    sandbox.stop()
    with within(2), pytest.raises(SandboxClosed):
        next(iterator)
    stream.close()


def test_a_sandbox_that_dies_meanwhile(sandbox: Any) -> None:
    stream = sandbox.stream("echo here; sleep 1000")
    iterator = iter(stream)
    next(iterator)
    inside = sorted(members(sandbox))
    os.kill(inside[0], signal.SIGKILL)
    with within(5), pytest.raises(SandboxLost) as caught:
        next(iterator)
    assert caught.value.output == "here\n"
    assert wait_gone(set(inside)) == set()


def test_several_at_once(sandbox: Any) -> None:
    def run(number: int) -> str:
        return "".join(
            chunk.text for chunk in sandbox.stream(f"for n in 1 2 3; do echo {number}; done")
        )

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(run, range(32))) == [f"{number}\n" * 3 for number in range(32)]


def test_interrupting_a_session(sandbox: Any) -> None:
    """From another thread: the command ends, the session and its state live on."""
    session = sandbox.create_session()
    session.run("kept=here")
    begun = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(
            session.run, "echo begun; sleep 1000", on_output=lambda *_: begun.set()
        )
        assert begun.wait(10)
        with within(5):
            # Its sleep may begin a moment after the output that tells of it.
            while not running.done():
                session.interrupt()
                begun.clear()
                begun.wait(0.01)
            assert running.result().exit_code == 130
    assert session.run("echo $kept").output == "here\n"


def test_interrupting_what_does_not_run(sandbox: Any) -> None:
    session = sandbox.create_session()
    session.interrupt()
    assert session.run("echo fine").output == "fine\n"
    session.close()
    session.interrupt()
