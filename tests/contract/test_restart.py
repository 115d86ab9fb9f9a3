"""Stop, restart and delete: what is kept, what ends, and what is on record."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rock_gym import Sandbox, SandboxPool
from rock_gym.errors import RockGymError, SandboxClosed, SandboxLost, SessionClosed, SpecError
from tests.contract.support import eventually, forget, members, wait_gone, within


def states(sandbox: Any) -> list[str]:
    return [step.state for step in sandbox.status().history]


def test_files_are_kept(sandbox: Any) -> None:
    """All that was written anywhere, with owners, modes, times and links."""
    sandbox.execute(
        "mkdir -p d/e; echo content > d/e/f; chmod 640 d/e/f; ln -s f d/e/l; echo x > /tmp/t; "
        "echo y > ~/h; touch -d @1000000000 d/e/f"
    )
    sandbox.write_file("written", "from outside", mode=0o600)
    look = "cat d/e/f d/e/l /tmp/t ~/h written; stat -c '%a %U %Y' d/e/f; stat -c %a written"
    before = sandbox.execute(look).stdout
    for _ in range(3):
        sandbox.restart()
        assert sandbox.execute(look).stdout == before
        sandbox.execute("echo more >> d/e/f; touch -d @1000000000 d/e/f", check=True)
        before = sandbox.execute(look).stdout
    assert before.count("more") == 6


def test_processes_and_sessions_end(sandbox: Any) -> None:
    session = sandbox.create_session("s")
    session.run("sleep 1000 & (setsid sh -c 'trap \"\" TERM; sleep 1000' &); kept=no")
    inside = members(sandbox)
    sandbox.restart()
    assert wait_gone(inside) == set()
    assert sandbox.status().sessions == ()
    assert not session.is_alive()
    with pytest.raises(SessionClosed):
        session.run("true")
    assert sandbox.create_session("s").run("echo ${kept:-gone}").output == "gone\n"
    assert sandbox.execute("ps ax 2>/dev/null | grep -c '[s]leep 1000'").stdout in ("0\n", "")


def test_stopped_and_started_again(sandbox: Any) -> None:
    sandbox.write_file("f", "kept")
    sandbox.stop()
    assert (sandbox.state, sandbox.is_alive()) == ("stopped", False)
    with pytest.raises(SandboxClosed, match="restart"):
        sandbox.read_file("f")
    sandbox.restart()
    assert (sandbox.state, sandbox.is_alive()) == ("running", True)
    assert sandbox.read_file("f") == "kept"
    assert states(sandbox) == ["pending", "running", "stopped", "pending", "running"]


def test_the_history_says_when_and_why(sandbox: Any) -> None:
    sandbox.stop()
    sandbox.restart()
    sandbox.delete()
    history = sandbox.status().history
    assert [step.state for step in history][-1] == "deleted"
    assert [step.time_s for step in history] == sorted(step.time_s for step in history)
    assert abs(history[-1].time_s - time.time()) < 60
    reasons = [step.reason for step in history]
    assert "stop()" in reasons[2]
    assert "restart()" in reasons[3]
    assert "delete()" in reasons[5]


def test_limits_hold_after_a_restart(start: Any) -> None:
    sandbox = start(memory="64m", pids=40, disk="8m", env={"GIVEN": "here"})
    sandbox.execute("head -c 2M /dev/zero > f")
    sandbox.restart()
    assert sandbox.execute("echo $GIVEN; id -u; pwd").stdout == f"here\n{os_uid(sandbox)}"
    assert sandbox.execute("head -c 20M /dev/zero > g; stat -c %s f").stdout == f"{2 << 20}\n"
    assert sandbox.statistics().disk_limit_bytes in (None, 8 << 20)
    code = ["python3", "-I", "-S", "-c", "bytearray(200 << 20); print('allocated')"]
    result = sandbox.execute(code)
    if sandbox.capabilities.memory != "none":
        assert result.stdout == ""
    if sandbox.capabilities.memory == "cgroup":
        assert result.cause == "oom"


def os_uid(sandbox: Any) -> str:
    return sandbox.execute("id -u; pwd").stdout


def test_isolation_holds_after_a_restart(sandbox: Any) -> None:
    def facts() -> str:
        return sandbox.execute(
            "cat /proc/self/status | grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid)'; ls /; "
            "touch /usr/x /etc/x /x 2>&1; rm -f /usr/x /etc/x /x; "
            "cat /proc/1/environ; cat /proc/1/cmdline | tr '\\0' ' '; "
            "unshare -U true 2>&1; cat /proc/sys/kernel/core_pattern > /dev/null && "
            "echo x > /proc/sys/kernel/core_pattern"
        ).stdout

    before = facts()
    sandbox.restart()
    assert facts() == before
    assert members(sandbox)


def test_after_it_has_died(sandbox: Any) -> None:
    """Killed from outside, it is lost until it is started again, with its files."""
    sandbox.write_file("f", "kept")
    for pid in sorted(members(sandbox)):
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not sandbox.is_alive())
    with pytest.raises(SandboxLost):
        sandbox.execute("true")
    sandbox.restart()
    assert sandbox.read_file("f") == "kept"
    assert sandbox.execute("echo alive").stdout == "alive\n"


def test_a_command_that_runs_meanwhile(sandbox: Any) -> None:
    """Whoever waits for it hears of the restart, and the sandbox is not taken for lost."""
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(sandbox.execute, "touch started; sleep 1000")
        assert eventually(lambda: sandbox.execute("test -e started").exit_code == 0)
        sandbox.restart()
        with pytest.raises(SandboxClosed):
            running.result(timeout=5)
    assert sandbox.status().state == "running"
    assert sandbox.execute("echo alive").stdout == "alive\n"


def test_use_after_delete(sandbox: Any) -> None:
    """Every verb says so, at once; only looking at it and deleting it again are fine."""
    sandbox.create_session("s")
    sandbox.delete()
    sandbox.delete()
    sandbox.stop()
    assert (sandbox.state, sandbox.is_alive()) == ("deleted", False)
    for verb in (
        lambda: sandbox.execute("true"),
        lambda: sandbox.stream("true"),
        lambda: sandbox.create_session("t"),
        lambda: sandbox.run_in_session("s", "true"),
        lambda: sandbox.read_file("f"),
        lambda: sandbox.write_file("f", "x"),
        lambda: sandbox.upload("/etc/hostname", "f"),
        lambda: sandbox.download("f", "/tmp/never"),
        lambda: sandbox.open_pty(),
        lambda: sandbox.statistics(),
        lambda: sandbox.restart(),
    ):
        with within(1), pytest.raises(SandboxClosed) as caught:
            verb()
        assert caught.value.sandbox_id == sandbox.id
    assert sandbox.status().state == "deleted"


def test_stopping_within_two_seconds_whatever_runs(sandbox: Any) -> None:
    session = sandbox.create_session("s")
    session.run("trap '' TERM INT HUP QUIT; (setsid sh -c 'trap \"\" TERM; while :; do :; done' &)")
    with ThreadPoolExecutor(3) as threads:
        runs = [
            threads.submit(sandbox.execute, "trap '' TERM INT; echo x > a; while :; do :; done"),
            threads.submit(sandbox.execute, "yes"),
            threads.submit(session.run, "cat /dev/zero | tr '\\0' x"),
        ]
        assert eventually(lambda: sandbox.execute("test -e a").exit_code == 0)
        with within(2):
            sandbox.stop()
        for run in runs:
            with pytest.raises((SandboxClosed, SandboxLost)):
                run.result(timeout=5)


def test_frozen_processes_end_too(sandbox: Any) -> None:
    sandbox.execute("sleep 1000 & kill -STOP $!")
    inside = members(sandbox)
    for pid in inside:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    with within(2):
        sandbox.stop()
    assert wait_gone(inside) == set()
    sandbox.restart()
    assert sandbox.execute("echo alive").stdout == "alive\n"


def test_the_context_manager_leaves_nothing(backend: str) -> None:
    with Sandbox.start(backend=backend) as sandbox:
        sandbox.stop()
        sandbox.restart()
    assert sandbox.state == "deleted"


def test_a_stopped_one_that_is_forgotten(backend: str) -> None:
    """It has been ended, so nobody needs to be warned; its files go with it."""
    things = [Sandbox.start(backend=backend)]
    inside = members(things[0])
    things[0].stop()
    forget(things)
    assert wait_gone(inside) == set()


def test_many_restarts_leave_nothing_open(sandbox: Any) -> None:
    sandbox.restart()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(8):
        sandbox.restart()
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert sandbox.execute("echo alive").stdout == "alive\n"


def test_restarts_and_stops_of_many_threads(sandbox: Any) -> None:
    """Each call ends, soon, with its effect or a typed error; the last word holds."""
    sandbox.write_file("f", "kept")

    def use(number: int) -> None:
        for turn in range(3 if sandbox.backend == "docker" else 6):
            try:
                if (number + turn) % 3 == 0:
                    sandbox.restart()
                elif (number + turn) % 3 == 1:
                    sandbox.stop()
                else:
                    sandbox.execute("true")
            except RockGymError as error:
                assert isinstance(error, (SandboxClosed, SandboxLost)), error

    with ThreadPoolExecutor(6) as threads, within(30):
        for done in [threads.submit(use, number) for number in range(6)]:
            done.result()
    sandbox.restart()
    assert sandbox.read_file("f") == "kept"
    sandbox.stop()
    assert not sandbox.is_alive()


def test_deleting_while_it_restarts(start: Any) -> None:
    for _ in range(5):
        sandbox = start()
        with ThreadPoolExecutor(1) as thread:
            restarting = thread.submit(sandbox.restart)
            sandbox.delete()
            with contextlib.suppress(SandboxClosed, SandboxLost):
                restarting.result(timeout=10)
        assert (sandbox.state, sandbox.is_alive()) == ("deleted", False)


def test_a_restart_needs_a_limit(sandbox: Any) -> None:
    with pytest.raises(SpecError):
        sandbox.restart(timeout=None)
    assert sandbox.execute("echo alive").stdout == "alive\n"


def test_what_a_pool_gets_back_is_deleted(backend: str) -> None:
    """A stopped sandbox would keep its files in memory."""
    with SandboxPool(backend=backend, max_size=1) as pool:
        with pool.acquire() as sandbox:
            sandbox.stop()
            sandbox.restart()
            assert sandbox.execute("echo alive").stdout == "alive\n"
        assert sandbox.state == "deleted"
        with pool.acquire() as second:
            second.stop()
        assert second.state == "deleted"
        with pool.acquire() as third:
            assert third.id not in (sandbox.id, second.id)


# Idle


def test_nobody_uses_it(start: Any) -> None:
    """It is stopped, says why, and can be started again."""
    sandbox = start(idle_timeout=0.3)
    sandbox.write_file("f", "kept")
    inside = members(sandbox)
    assert eventually(lambda: sandbox.state == "stopped")
    assert wait_gone(inside) == set()
    assert "0.3 s" in sandbox.status().history[-1].reason
    with pytest.raises(SandboxClosed, match=r"0\.3 s"):
        sandbox.execute("true")
    sandbox.restart()
    assert sandbox.read_file("f") == "kept"
    assert eventually(lambda: sandbox.state == "stopped"), "the deadline holds again"


def test_every_use_keeps_it(start: Any) -> None:
    sandbox = start(idle_timeout=0.6)
    session = sandbox.create_session()
    uses = (
        lambda: sandbox.execute("true"),
        lambda: session.run("true"),
        lambda: sandbox.write_file("f", "x"),
        lambda: sandbox.read_file("f"),
    )
    end = time.monotonic() + 1.8
    turn = 0
    while time.monotonic() < end:
        uses[turn % len(uses)]()
        turn += 1
        threading.Event().wait(0.05)
    assert sandbox.state == "running"
    assert eventually(lambda: sandbox.state == "stopped")


@pytest.mark.parametrize("verb", ["execute", "session", "stream"])
def test_a_command_that_runs_is_a_use(start: Any, verb: str) -> None:
    sandbox = start(idle_timeout=0.3)
    session = sandbox.create_session()
    command = "sleep 1.2; echo done"
    if verb == "execute":
        assert sandbox.execute(command).stdout == "done\n"
    elif verb == "session":
        assert session.run(command).output == "done\n"
    else:
        assert "".join(chunk.text for chunk in sandbox.stream(command)) == "done\n"
    assert eventually(lambda: sandbox.state == "stopped")


def test_looking_at_it_is_no_use(start: Any) -> None:
    sandbox = start(idle_timeout=0.3)

    def looked_at() -> bool:
        sandbox.is_alive()
        sandbox.status()
        try:
            sandbox.statistics()
        except SandboxClosed:
            return True
        return False

    assert eventually(looked_at)


def test_the_deadline_can_be_changed(start: Any) -> None:
    sandbox = start(idle_timeout=0.3)
    sandbox.set_idle_timeout(None)
    other = start(idle_timeout=0.3)
    assert eventually(lambda: other.state == "stopped")
    assert sandbox.state == "running"
    sandbox.set_idle_timeout(0.1)
    assert eventually(lambda: sandbox.state == "stopped")


def test_one_thread_for_all(start: Any) -> None:
    """Which is there only while there is a deadline to keep."""

    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "rock-gym-idle"]

    # That of the test before may be about to end.
    assert eventually(lambda: not threads())
    sandboxes = [start(idle_timeout=60) for _ in range(5)]
    assert len(threads()) == 1
    for sandbox in sandboxes:
        sandbox.stop()
    assert eventually(lambda: not threads())


@pytest.mark.parametrize("idle_timeout", [-1, "soon", True])
def test_deadlines_that_make_no_sense(backend: str, idle_timeout: Any) -> None:
    with pytest.raises(SpecError):
        Sandbox.start(backend=backend, idle_timeout=idle_timeout)
