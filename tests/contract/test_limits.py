"""Limits hold, and what runs into one is told which it was."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest

from rock_gym.errors import CommandFailed, CommandTimeout, FileError, SpecError
from tests.contract.support import eventually, members, wait_gone, within

PYTHON = ["python3", "-I", "-S", "-c"]
HOG = "held = bytearray({size} << 20); print('allocated')"

# Forks until it is refused; the children stay. Returns how many there were by its output.
FORKS = """
import os, sys, time
started = 0
while started < 500:
    try:
        child = os.fork()
    except BlockingIOError:
        print(started, flush=True)
        os._exit(1)
    if child == 0:
        os.closerange(0, 3)
        time.sleep(60)
        os._exit(0)
    started += 1
print("unlimited")
"""


def kinds(sandbox: Any) -> set[str]:
    return {event.kind for event in sandbox.status().events}


def needs(sandbox: Any, limit: str, how: str = "cgroup") -> None:
    held = getattr(sandbox.capabilities, limit)
    if held != how:
        pytest.skip(f"this backend says that {limit} is held by {held!r} here")


def test_who_holds_the_limits_is_stated(start: Any) -> None:
    """In the status as well, so that it can be logged beside a result."""
    sandbox = start(memory="256m", cpus=1, pids=64)
    stated = sandbox.status().capabilities
    assert stated == sandbox.capabilities
    assert stated.memory in ("cgroup", "rlimit", "none")
    assert stated.cpu in ("cgroup", "none")
    assert stated.pids in ("cgroup", "rlimit", "none")


def test_a_plain_failure_has_no_cause(start: Any) -> None:
    sandbox = start(memory="256m", pids=64, disk="16m")
    session = sandbox.create_session()
    assert sandbox.execute("exit 3").cause is None
    assert session.run("false").cause is None
    with pytest.raises(CommandFailed) as caught:
        sandbox.execute("kill -9 $$", check=True)
    assert caught.value.cause is None
    with pytest.raises(CommandTimeout) as timed_out:
        sandbox.execute("sleep 60", timeout=0.1)
    assert timed_out.value.cause is None
    assert sandbox.status().events == ()


def test_too_much_memory(start: Any) -> None:
    """The command fails and says why; the sandbox and its other processes live on."""
    sandbox = start(memory="64m")
    bystander = sandbox.create_session("bystander")
    result = sandbox.execute([*PYTHON, HOG.format(size=200)])
    assert result.exit_code != 0
    assert "allocated" not in result.stdout
    assert bystander.run("echo alive").output == "alive\n"
    assert sandbox.execute([*PYTHON, HOG.format(size=8)]).stdout == "allocated\n"
    needs(sandbox, "memory")
    assert (result.exit_code, result.cause) == (137, "oom")
    assert kinds(sandbox) == {"oom"}


def test_too_much_memory_in_a_session(start: Any) -> None:
    sandbox = start(memory="64m")
    needs(sandbox, "memory")
    session = sandbox.create_session()
    session.run("kept=here")
    result = session.run(f'python3 -I -S -c "{HOG.format(size=200)}"')
    assert (result.exit_code, result.cause) == (137, "oom")
    assert session.run("echo $kept").output == "here\n"
    with pytest.raises(CommandFailed, match="oom") as caught:
        session.run(f'python3 -I -S -c "{HOG.format(size=200)}"', check=True)
    assert caught.value.cause == "oom"


def test_memory_is_counted_over_all_processes(start: Any) -> None:
    """Four that each stay below the limit do not fit together."""
    sandbox = start(memory="96m")
    needs(sandbox, "memory")
    code = "import os, time; held = bytearray(40 << 20)\n"
    code += "while not os.path.exists('enough'): time.sleep(0.05)"
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(sandbox.execute, [*PYTHON, code], timeout=10) for _ in range(4)]
        # Those that live have nothing to wait for once one has been killed.
        first = next(as_completed(runs))
        sandbox.write_file("enough", "")
        outcomes = [first.result().cause, *(run.result().cause for run in runs)]
    assert "oom" in outcomes, outcomes
    assert sandbox.execute("echo alive").stdout == "alive\n"


def test_files_do_not_push_processes_out(start: Any) -> None:
    """Where files are memory, a full disk is still a full disk, and nobody is killed for it."""
    sandbox = start(memory="64m")
    needs(sandbox, "disk", "tmpfs")
    bystander = sandbox.create_session("bystander")
    for place in ("/tmp/f", "big", "/dev/shm/f"):
        result = sandbox.execute(f"head -c 200M /dev/zero > {place}")
        assert result.exit_code == 1, result
    assert result.cause == "disk"
    assert bystander.run("echo alive").output == "alive\n"
    assert "oom" not in kinds(sandbox)


def test_a_disk_limit_that_leaves_no_memory(backend: str, start: Any) -> None:
    if start(disk="16m").capabilities.disk != "tmpfs":
        pytest.skip("files are not memory on this backend")
    with pytest.raises(SpecError, match="disk"):
        start(memory="64m", disk="64m")


def test_too_many_processes(start: Any) -> None:
    """The number holds, more or less the library's own few; the error says what it was."""
    sandbox = start(pids=40)
    if sandbox.capabilities.pids == "none":
        pytest.skip("this backend says that it holds no limit of processes")
    result = sandbox.execute([*PYTHON, FORKS])
    assert result.exit_code == 1
    assert 25 <= int(result.stdout) <= 40
    assert result.cause == "pids"
    assert kinds(sandbox) == {"pids"}


def test_threads_count(start: Any) -> None:
    sandbox = start(pids=30)
    if sandbox.capabilities.pids == "none":
        pytest.skip("this backend says that it holds no limit of processes")
    code = """
import os, threading
for number in range(100):
    try:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    except RuntimeError:
        break
print(number, flush=True)
os._exit(2)
"""
    assert int(sandbox.execute([*PYTHON, code]).stdout) <= 30


def test_one_sandbox_does_not_use_up_the_processes_of_another(start: Any) -> None:
    pair = [start(pids=40), start(pids=40)]
    if pair[0].capabilities.pids == "none":
        pytest.skip("this backend says that it holds no limit of processes")
    started = [int(sandbox.execute([*PYTHON, FORKS]).stdout) for sandbox in pair]
    assert min(started) >= 25, started


@pytest.mark.parametrize("limits", [{}, {"pids": 100}, {"pids": 100, "memory": "128m"}])
def test_stopping_a_fork_bomb(start: Any, limits: dict[str, Any]) -> None:
    """Within two seconds, and nothing of it is left."""
    sandbox = start(**limits)
    inside = members(sandbox)
    with pytest.raises(CommandTimeout):
        sandbox.execute("bomb() { bomb | bomb & }; bomb; sleep 60", timeout=0.5)
    with within(2):
        sandbox.stop()
    assert wait_gone(inside) == set()


def test_a_full_disk(start: Any) -> None:
    sandbox = start(disk="8m")
    if sandbox.capabilities.disk == "none":
        pytest.skip("this backend says that it holds no disk limit")
    session = sandbox.create_session()
    result = sandbox.execute("head -c 20M /dev/zero > f")
    assert (result.exit_code, result.cause) == (1, "disk")
    assert session.run("echo more > g").cause == "disk"
    with pytest.raises(FileError) as caught:
        sandbox.write_file("h", "x" * 100_000)
    assert (caught.value.reason, caught.value.cause) == ("ENOSPC", "disk")
    assert kinds(sandbox) == {"disk"}
    sandbox.execute("rm f")
    assert sandbox.execute("false").cause is None
    sandbox.write_file("h", "x" * 100_000)


def test_many_empty_files_fill_a_disk_too(start: Any) -> None:
    sandbox = start(disk="4m")
    needs(sandbox, "disk", "tmpfs")
    code = "import os\nfor number in range(10**6): os.close(os.open(str(number), os.O_CREAT))"
    result = sandbox.execute([*PYTHON, code])
    assert "No space left" in result.stderr
    assert result.cause == "disk"


def test_cpu_time_is_rationed(start: Any) -> None:
    """Half a CPU gives half a second per second, however many processes want it."""
    sandbox = start(cpus=0.5)
    needs(sandbox, "cpu")
    spin = "for n in 1 2; do timeout 1.5 sh -c 'while :; do :; done' & done; wait"
    before, began = sandbox.statistics().cpu_s, time.monotonic()
    sandbox.execute(spin)
    used, took = sandbox.statistics().cpu_s - before, time.monotonic() - began
    assert 0 < used / took < 0.75


def test_what_runs_into_several_limits_names_the_hardest(start: Any) -> None:
    sandbox = start(memory="64m", disk="8m")
    needs(sandbox, "memory")
    sandbox.execute("head -c 20M /dev/zero > f")
    assert sandbox.execute([*PYTHON, HOG.format(size=200)]).cause == "oom"


def test_events_say_when(start: Any) -> None:
    sandbox = start(disk="4m")
    if sandbox.capabilities.disk == "none":
        pytest.skip("this backend says that it holds no disk limit")
    before = time.time()
    for _ in range(150):
        sandbox.execute("head -c 8M /dev/zero > f")
    events = sandbox.status().events
    assert len(events) == 100
    assert all(before <= event.time_s <= time.time() for event in events)


def test_no_control_group_is_left(start: Any) -> None:
    """Not after the end of a sandbox, whatever ended in it."""
    sandbox = start(memory="64m", pids=64, cpus=1)
    if sandbox.backend != "bubblewrap" or sandbox.capabilities.memory != "cgroup":
        pytest.skip("no control groups are made here")
    inside = min(members(sandbox))
    lines = [line.split(":") for line in Path(f"/proc/{inside}/cgroup").read_text().splitlines()]
    names = {line[2].rpartition("/")[2] for line in lines if "/rock-gym-" in line[2]}
    assert len(names) == 1
    (name,) = names

    def left() -> list[Path]:
        # Not rglob: others' groups come and go meanwhile.
        return [Path(group) for group, _, _ in os.walk("/sys/fs/cgroup") if group.endswith(name)]

    assert left()
    sandbox.execute("sleep 60 & (setsid sleep 60 &)")
    sandbox.stop()
    assert left(), "its files still count"
    sandbox.delete()
    assert eventually(lambda: not left()), left()
