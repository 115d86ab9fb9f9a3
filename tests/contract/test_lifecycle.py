"""Beginning and end, by whatever cause."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rock_gym import Sandbox
from rock_gym.errors import (
    FileError,
    ImageNotFound,
    SandboxClosed,
    SandboxLost,
    SpecError,
)
from tests.contract.support import (
    Owner,
    command_line,
    eventually,
    forget,
    host_mounts,
    inner_pid,
    kill_owners_that_start,
    members,
    run_owner,
    wait_gone,
    within,
)

OWNER = """
import json, os, sys
import rock_gym
from tests.contract.support import below
sandboxes = [rock_gym.Sandbox.start(backend={backend!r}) for _ in range(3)]
for sandbox in sandboxes:
    bash = sandbox.create_session()
    bash.run("setsid sleep 1000 & (setsid sh -c 'trap \\"\\" TERM HUP; sleep 1000' &)")
    sandbox.execute("sleep 1000 &")
print(json.dumps(sorted(below(os.getpid()))), flush=True)
sys.stdin.readline()
"""


def test_what_it_says_of_itself(sandbox: Any, backend: str) -> None:
    assert re.fullmatch(r"sandbox-[0-9a-f]{12}", sandbox.id)
    assert sandbox.workdir.startswith("/")
    assert sandbox.backend == backend
    assert sandbox.capabilities.disk in ("tmpfs", "quota", "none")
    assert sandbox.id in repr(sandbox)


def test_states(sandbox: Any) -> None:
    """Every one that it went through is on record."""
    assert sandbox.is_alive() is True
    assert sandbox.status().state == "running"
    sandbox.stop()
    assert sandbox.is_alive() is False
    assert sandbox.status().state in ("stopped", "deleted")
    assert len(sandbox.status().history) >= 3


def test_the_context_manager_stops_it(backend: str) -> None:
    with Sandbox.start(backend=backend) as sandbox:
        inside = members(sandbox)
        assert inside
    assert not sandbox.is_alive()
    assert wait_gone(inside) == set()


def test_an_error_in_the_block_stops_it_too(backend: str) -> None:
    with pytest.raises(ZeroDivisionError), Sandbox.start(backend=backend) as sandbox:
        raise ZeroDivisionError
    assert not sandbox.is_alive()


def test_stopping_twice_is_fine(sandbox: Any) -> None:
    sandbox.stop()
    sandbox.stop()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: sandbox.stop(), range(8)))


def test_use_after_stop(sandbox: Any) -> None:
    """Every verb says so, at once."""
    sandbox.stop()
    for verb in (
        lambda: sandbox.execute("true"),
        lambda: sandbox.create_session("s"),
        lambda: sandbox.run_in_session("s", "true"),
        lambda: sandbox.read_file("f"),
        lambda: sandbox.write_file("f", "x"),
    ):
        with within(1), pytest.raises(SandboxClosed) as caught:
            verb()
        assert caught.value.sandbox_id == sandbox.id


@pytest.mark.parametrize("verb", ["execute", "session", "deaf"])
def test_stopping_ends_a_running_command(sandbox: Any, verb: str) -> None:
    """Whoever waits for it hears of it at once."""
    session = sandbox.create_session("s")
    calls = {
        "execute": lambda: sandbox.execute("touch started; sleep 1000"),
        "session": lambda: session.run("touch started; sleep 1000"),
        "deaf": lambda: sandbox.execute("trap '' TERM INT; touch started; while :; do :; done"),
    }
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(calls[verb])
        assert eventually(lambda: sandbox.execute("test -e started").exit_code == 0)
        with within(2):
            sandbox.stop()
            with pytest.raises((SandboxClosed, SandboxLost)):
                running.result(timeout=5)


def test_stopping_while_many_threads_use_it(sandbox: Any) -> None:
    """Each call ends with a result or a SandboxClosed, soon."""
    stop = threading.Event()

    def use(number: int) -> None:
        while not stop.is_set():
            try:
                assert sandbox.execute(f"echo {number}").stdout == f"{number}\n"
                sandbox.write_file(f"f{number}", "x")
                assert sandbox.read_file(f"f{number}") == "x"
            except (SandboxClosed, SandboxLost):
                return

    with ThreadPoolExecutor(16) as threads, within(20):
        users = [threads.submit(use, number) for number in range(16)]
        time.sleep(0.2)
        sandbox.stop()
        stop.set()
        for user in users:
            user.result(timeout=10)


def test_a_sandbox_that_dies_is_lost(sandbox: Any) -> None:
    """Killed from outside, it is a typed error, and stop() is still fine."""
    session = sandbox.create_session("s")
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(session.run, "touch started; sleep 1000")
        assert eventually(lambda: sandbox.execute("test -e started").exit_code == 0)
        (first,) = (pid for pid in members(sandbox) if inner_pid(pid) == 1)
        os.kill(first, signal.SIGKILL)
        with within(5), pytest.raises(SandboxLost) as caught:
            running.result(timeout=5)
        assert caught.value.sandbox_id == sandbox.id
    assert eventually(lambda: not sandbox.is_alive())
    for verb in (
        lambda: sandbox.execute("true"),
        lambda: session.run("true"),
        lambda: sandbox.create_session("t"),
        lambda: sandbox.write_file("f", "x"),
    ):
        with within(2), pytest.raises(SandboxLost):
            verb()
    assert sandbox.status().state != "running"
    sandbox.stop()


def test_losing_one_touches_no_other(start: Any) -> None:
    lost, kept = start(), start()
    for pid in members(lost):
        with contextlib.suppress(ProcessLookupError):  # the end of one may be the end of others
            os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not lost.is_alive())
    assert kept.execute("echo here").stdout == "here\n"
    assert start().execute("echo new").stdout == "new\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"image": "no-such-image:9.9"}, ImageNotFound),
        ({"image": ""}, SpecError),
        ({"backend": "no-such-backend"}, SpecError),
        ({"memory": "a lot"}, SpecError),
        ({"memory": "1"}, SpecError),
        ({"cpus": -1}, SpecError),
        ({"pids": 0}, SpecError),
        ({"disk": "0"}, SpecError),
        ({"network": "telepathy"}, SpecError),
        ({"env": {"A=B": "x"}}, SpecError),
        ({"timeout": -1}, SpecError),
    ],
)
def test_nonsense_is_refused(backend: str, arguments: dict[str, Any], error: type) -> None:
    """At once, with nothing started."""
    with within(5), pytest.raises(error):
        Sandbox.start(**{"backend": backend, **arguments})


def test_an_unknown_image_says_what_would_supply_it(backend: str) -> None:
    with pytest.raises(ImageNotFound, match=r"no-such-image:9\.9.{10}"):
        Sandbox.start("no-such-image:9.9", backend=backend)


def test_variables_for_every_command(start: Any) -> None:
    sandbox = start(env={"TOPIC": "boxes and  rocks"})
    assert sandbox.execute('echo "$TOPIC"').stdout == "boxes and  rocks\n"
    assert sandbox.create_session().run('echo "$TOPIC"').output == "boxes and  rocks\n"


def test_the_best_backend_is_found(backend: str) -> None:
    with Sandbox.start() as sandbox:
        assert sandbox.execute("echo hi").stdout == "hi\n"


def test_the_thread_that_started_it_may_end(start: Any) -> None:
    started: list[Any] = []
    thread = threading.Thread(target=lambda: started.append(start()))
    thread.start()
    thread.join()
    # A parent-death signal would come at once: give it many chances.
    for _ in range(50):
        assert started[0].execute("echo here").stdout == "here\n"


def test_sixteen_threads_start_at_once(start: Any) -> None:
    with ThreadPoolExecutor(16) as threads:
        sandboxes = list(threads.map(lambda _: start(), range(32)))
        answers = list(threads.map(lambda s: s.execute("echo $$").exit_code, sandboxes))
    assert len({sandbox.id for sandbox in sandboxes}) == 32
    assert answers == [0] * 32


def test_starting_and_stopping_grows_nothing(backend: str) -> None:
    """No descriptor, thread or process more after a hundred, or twenty where each takes long."""

    def once() -> None:
        with Sandbox.start(backend=backend) as sandbox:
            sandbox.create_session().run("sleep 100 &")
            sandbox.execute("true")

    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    for _ in range(3):
        once()
    before, threads = descriptors(), threading.active_count()
    for _ in range(100 if backend == "bubblewrap" else 20):
        once()
    assert eventually(lambda: descriptors() <= before + 2)
    assert eventually(lambda: threading.active_count() <= threads)


def test_forgetting_to_stop_warns_and_stops(backend: str) -> None:
    """A forgotten sandbox does not stay."""
    sandbox = Sandbox.start(backend=backend)
    inside = members(sandbox)
    sandbox.create_session().run("sleep 1000 &")
    forgotten, name = [sandbox], sandbox.id
    del sandbox
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forget(forgotten)
    assert [w for w in caught if w.category is ResourceWarning and name in str(w.message)]
    assert wait_gone(inside) == set()


# The owner's end

ENDS = {
    "SIGKILL": "os.kill(os.getpid(), 9)",
    "SIGTERM": "os.kill(os.getpid(), 15)",
    "_exit": "os._exit(3)",
    "exit": "sys.exit(3)",
    "error": "raise KeyError('by an error')",
    "end": "",
    "thread": "import threading; threading.Thread(target=lambda: os._exit(4)).start()",
}


@pytest.mark.parametrize("end", ENDS)
def test_nothing_outlives_its_owner(backend: str, end: str) -> None:
    """Not a process, not a mount, however the owner ends."""
    mounts = host_mounts()
    script = OWNER.format(backend=backend) + ENDS[end]
    with Owner(script, env={"PYTHONPATH": os.getcwd()}) as owner:
        owner.tells()
        below = owner.below()
        assert len(below) >= 10
        owner.say("go")
        owner.process.wait(20)
        left = wait_gone(below, 5)
    assert left == set(), [command_line(pid) for pid in left]
    assert host_mounts() == mounts


def test_a_killed_owner_with_a_living_child(backend: str) -> None:
    """A child that it forked must not keep its sandboxes alive."""
    script = OWNER.format(backend=backend).replace(
        "sys.stdin.readline()",
        "child = os.fork()\n"
        "if child == 0:\n"
        "    import time\n"
        "    os.close(1); os.close(2); time.sleep(300); os._exit(0)\n"
        "print(child, flush=True)\nsys.stdin.readline()",
    )
    with Owner(script, env={"PYTHONPATH": os.getcwd()}) as owner:
        below = set(owner.tells())
        child = owner.tells()
        owner.kill()
        owner.process.wait(10)
        try:
            assert wait_gone(below, 5) == set()
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.timeout(120)
def test_an_owner_killed_while_it_starts_sandboxes(backend: str) -> None:
    """There is no moment at which one could be left."""
    kill_owners_that_start(backend)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="forking with threads warns there")
def test_a_forked_child_harms_nothing(backend: str) -> None:
    """Its end, however clean, is not the end of its parent's sandboxes."""
    answers = run_owner(
        f"""
import gc, json, os, sys, multiprocessing, rock_gym
sandbox = rock_gym.Sandbox.start(backend={backend!r})
bash = sandbox.create_session()
bash.run("x=5")
answers = []
for end in (lambda: sys.exit(0), lambda: os._exit(0), lambda: (globals().clear(), gc.collect())):
    child = os.fork()
    if child == 0:
        sys.stdout = open(os.devnull, "w")
        try:
            end()
        finally:
            import os
            os._exit(0)
    os.waitpid(child, 0)
    answers.append(sandbox.execute("echo here").stdout + bash.run("echo $x").output)
worker = multiprocessing.get_context("fork").Process(target=gc.collect)
worker.start(); worker.join()
answers.append(sandbox.execute("echo here").stdout + bash.run("echo $x").output)
sandbox.stop()
print(json.dumps(answers), flush=True)
"""
    )
    assert answers == ["here\n5\n"] * 4


def test_the_library_says_nothing_at_a_clean_end(backend: str) -> None:
    """No traceback, no warning, no message at exit."""
    script = f"""
import rock_gym
with rock_gym.Sandbox.start(backend={backend!r}) as sandbox:
    sandbox.execute("sleep 100 &")
    sandbox.create_session().run("sleep 100 &")
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_file_error_is_no_loss(sandbox: Any) -> None:
    with pytest.raises(FileError):
        sandbox.read_file("missing")
    assert sandbox.is_alive()


def test_orphans_are_reaped(sandbox: Any) -> None:
    """What a command leaves behind does not stay as zombies when it ends."""
    session = sandbox.create_session()
    for _ in range(20):
        sandbox.execute("for i in 1 2 3 4 5; do (sleep 0.01 &) ; done")
        session.run("for i in 1 2 3 4 5; do (setsid sleep 0.01 &) ; done")
    states = "cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | cut -c1 | grep -c Z"
    assert eventually(lambda: int(sandbox.execute(states).stdout) == 0), sandbox.execute(states)
