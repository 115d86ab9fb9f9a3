"""What a program may do to its own sandbox: all of it is its own problem, and none of ours.

Held elsewhere: fork bombs, memory, full disks and inodes (contract: isolation, limits); floods and
invalid text, deaf, stopped and silent commands, pipes that children keep open, ``kill -9 -1``
(contract: execute); broken shells and text that looks like markers (contract: sessions); half
files, and links that change (contract: files); killed owners, misuse by many threads (contract:
lifecycle, restart); engines that stop (docker: engine); environments that die, hang, print and
forge (gem: worker; envs: vector faults).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rock_gym import Sandbox
from rock_gym.errors import (
    CommandTimeout,
    FileError,
    RockGymError,
    SandboxClosed,
    SandboxLost,
    SessionClosed,
)
from tests.contract.support import eventually, run_owner, within

# The errors that a broken sandbox may answer with. No other is right.
TYPED = (CommandTimeout, FileError, SandboxLost, SandboxClosed, SessionClosed)


@pytest.fixture(scope="module")
def neighbour(backend: str) -> Iterator[Sandbox]:
    """Another sandbox, in which nothing happens."""
    with Sandbox.start(backend=backend) as sandbox:
        sandbox.write_file("mine", "untouched")
        sandbox.create_session("mine").run("here=1")
        yield sandbox


@pytest.fixture
def unharmed(neighbour: Sandbox, tmp_path: Path) -> Iterator[None]:
    """The host and the neighbour are afterwards as they were."""
    (tmp_path / "file").write_text("of the host")
    yield
    assert (tmp_path / "file").read_text() == "of the host"
    with within(10):
        assert neighbour.read_file("mine") == "untouched"
        assert neighbour.run_in_session("mine", "echo $here").output == "1\n"


PYTHON = "python3 -I -S -c "
DESCRIPTORS = PYTHON + (
    '"import os\n'
    "def fill():\n"
    "    try:\n"
    "        while True: os.open('/dev/null', 0)\n"
    "    except OSError as error: return error.errno\n"
    "for _ in range(8):\n"
    "    if os.fork() == 0: fill(); os.kill(os.getpid(), 19)\n"
    'print(fill())"'
)
# Descriptors on their way in sockets count for nobody who holds them.
IN_FLIGHT = PYTHON + (
    '"import array, socket\n'
    "sent, kept = 0, []\n"
    "try:\n"
    "    while sent < 100_000:\n"
    "        a, b = socket.socketpair(); kept.append((a, b))\n"
    "        rights = [(1, 1, array.array('i', [a.fileno()] * 200))]\n"
    "        a.setblocking(False)\n"
    "        for _ in range(10): a.sendmsg([b'x'], rights); sent += 200\n"
    "except OSError as error: print(error.errno)\n"
    'else: print(0)"'
)

# Each runs in the background of a session, and as a command.
PROGRAMS = {
    "deletes everything": "rm -rf --no-preserve-root / 2>/dev/null; cd /; rm -rf ./* .[!.]*",
    "closes its work directory": 'chmod 0 "$PWD" "$HOME" /tmp',
    "replaces its work directory": 'd=$PWD; cd /; mv "$d" /tmp/was; ln -s /etc "$d"',
    "signals the first process": "for n in $(seq 1 64); do kill -$n 1 2>/dev/null; done",
    "opens all descriptors there are": DESCRIPTORS,
    "has descriptors on their way": IN_FLIGHT,
    "writes into every descriptor": (
        "for fd in /proc/[0-9]*/fd/*; do head -c 100000 /dev/zero > $fd & done 2>/dev/null; "
        "sleep 0.5; kill $(jobs -p)"
    ),
    "writes into the kernel's files of others": (
        "for p in /proc/[0-9]*; do for f in oom_score_adj comm coredump_filter clear_refs "
        "timerslack_ns; do echo 1000 > $p/$f; done; done 2>/dev/null"
    ),
    "locks and leases what it can": (
        PYTHON + "\"import fcntl, os\nfor d in ('/', '/etc', '/tmp', '/proc'):\n"
        "    fcntl.flock(os.open(d, 0), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        'os.kill(os.getpid(), 19)"'
    ),
    "leaves thousands of dead children": (
        PYTHON + '"import os\nfor _ in range(3000):\n    try: pid = os.fork()\n'
        "    except OSError: break\n    if pid == 0: os._exit(0)\n"
        'os.kill(os.getpid(), 19)"'
    ),
}


@pytest.fixture
def victim(start: Callable[..., Sandbox]) -> Sandbox:
    return start()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_harms_its_own_sandbox_alone(
    victim: Sandbox, unharmed: None, tmp_path: Path, name: str
) -> None:
    """Whatever is asked of it afterwards is done, or is a typed error, and soon."""
    session = victim.create_session("before")
    with within(30):
        with contextlib.suppress(*TYPED):
            victim.execute(PROGRAMS[name], timeout=1.5)
        for ask in (
            lambda: victim.execute(["/bin/sh", "-c", "exit 5"], timeout=3).exit_code in (5, 127),
            # Without /dev/null, which its commands read from, a session says so.
            lambda: (
                (result := session.run("(exit 6)", timeout=3)).exit_code == 6
                or "/dev/null" in result.output
            ),
            lambda: victim.write_file("f", "x") or victim.read_file("f") == "x",
            lambda: victim.statistics() is not None,
        ):
            try:
                assert ask()
            except TYPED:
                continue
        assert victim.status().state in ("running", "stopped")
    with within(5):
        victim.delete()
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_flood_beside_the_output_costs_the_owner_nothing(backend: str) -> None:
    """Where a session's shell tells that a command has ended, a program may write too."""
    grown_kib = run_owner(
        f"""
import resource, rock_gym
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with rock_gym.Sandbox.start(backend={backend!r}) as sandbox:
    session = sandbox.create_session("s")
    session.run("seq 1 300000")
    before = peak()
    assert session.run("head -c 100000000 /dev/zero >&9; (exit 5)", timeout=20).exit_code == 5
    assert session.run("yes | head -c 90000000 >&9; (exit 6)", timeout=20).exit_code == 6
    assert session.run("(exit 7)").exit_code == 7
    print(peak() - before, flush=True)
"""
    )
    assert grown_kib < 32 * 1024


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_is_not_looked_at(
    start: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Deadlines are counted by a clock that nobody sets."""
    sandbox = start(idle_timeout=60)
    session = sandbox.create_session()
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + jump_s)
    assert sandbox.execute("sleep 0.2; echo on", timeout=10).stdout == "on\n"
    assert session.run("sleep 0.2; echo on", timeout=10).output == "on\n"
    with within(10), pytest.raises(CommandTimeout):
        sandbox.execute("sleep 100", timeout=0.3)
    assert sandbox.state == "running"


def test_files_that_a_killed_program_left_half_written_are_what_they_are(
    start: Callable[..., Sandbox],
) -> None:
    """A reader is given what is there, and never waits for the rest."""
    sandbox = start()
    sandbox.execute("head -c 5000 /dev/zero > half; kill -9 $$; echo rest >> half", timeout=5)
    assert sandbox.read_file("half", encoding=None) == bytes(5000)
    sandbox.create_session().run("(while :; do echo more; done >> grows) & disown")
    assert eventually(lambda: sandbox.execute("test -s grows").exit_code == 0)
    with within(10):
        content = sandbox.read_file("grows")
    assert content.startswith("more\n")


def test_every_error_of_all_this_is_ours() -> None:
    """So that one clause catches them all."""
    assert all(issubclass(error, RockGymError) for error in TYPED)
