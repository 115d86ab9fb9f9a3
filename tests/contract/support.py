"""Looking at processes from outside, and waiting with a deadline instead of sleeping."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def eventually(condition: Callable[[], object], timeout: float = 10.0) -> bool:
    """Poll until the condition holds; False when the deadline passes first."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail when the block took longer: nothing hangs."""
    start = time.monotonic()
    yield
    elapsed = time.monotonic() - start
    assert elapsed < seconds, f"took {elapsed:.1f} s, at most {seconds} s allowed"


def parents() -> dict[int, int]:
    """Every process's parent."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # The name stands in parentheses and may hold anything.
                found[int(entry)] = int(
                    Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1]
                )
    return found


def descendants(root: int | None = None) -> set[int]:
    """Every process below ``root`` (by default this process), dead ones not yet waited for too."""
    table = parents()
    found: set[int] = set()
    level = {os.getpid() if root is None else root}
    while level:
        level = {pid for pid, parent in table.items() if parent in level} - found
        found |= level
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


# Mounts that come and go for others: an engine's, named networks, and what mounts itself as soon as
# anybody looks for traces.
_MOUNTS_OF_OTHERS = ("/docker/", " /run/netns", " /sys/kernel/tracing ")


def host_mounts() -> tuple[str, ...]:
    """What is mounted on the host, but for what others have mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return tuple(line for line in lines if not any(other in line for other in _MOUNTS_OF_OTHERS))


def orphans() -> set[int]:
    """Processes of sandboxes, anybody's, that nobody is left to end.

    One of an embedded sandbox hangs below its launcher. If its parent is neither that nor another
    process of the sandbox, it has lost it. A container has lost its owner if that is gone.
    """
    table = parents()
    abandoned = set().union(
        *(in_containers_of(owner) for owner in containers_of().values() if owner not in table)
    )
    kin = ("bwrap", ".rock-gym-init", "launcher")
    return {
        pid
        for pid, parent in table.items()
        if ".rock-gym-init" in command_line(pid)
        and not any(name in command_line(parent) for name in kin)
    } | abandoned


def namespace_members(link: str) -> set[int]:
    """The host's ids of all processes in a pid namespace, named as readlink inside names it."""
    # Tests kill what this returns: it must never be the host.
    assert link.startswith("pid:["), link
    assert link != os.readlink("/proc/self/ns/pid"), "the sandbox has no pid namespace of its own"
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/pid") == link:
                    found.add(int(entry))
    return found


def members(sandbox: Any) -> set[int]:
    """The host's ids of all processes in a sandbox."""
    return namespace_members(sandbox.execute("readlink /proc/self/ns/pid").stdout.strip())


def containers_of(owner: int | None = None) -> dict[str, int]:
    """Our containers that an engine knows, if one answers: their ids, and who owns each."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect("/var/run/docker.sock")
            query = "all=1&filters=%7B%22label%22%3A%5B%22rock-gym.owner%22%5D%7D"
            sock.sendall(f"GET /v1.41/containers/json?{query} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
    except (FileNotFoundError, ConnectionRefusedError, PermissionError):
        return {}
    owners = {
        found["Id"]: int(json.loads(found["Labels"]["rock-gym.owner"])["pid"])
        for found in json.loads(answer.partition(b"\r\n\r\n")[2])
    }
    return {name: pid for name, pid in owners.items() if owner in (None, pid)}


def in_containers_of(owner: int) -> set[int]:
    """The host's ids of all processes in the containers of an owner: they run below the engine."""
    names = [name.encode() for name in containers_of(owner)]
    found = set()
    for entry in os.listdir("/proc") if names else ():
        if entry.isdigit():
            with contextlib.suppress(OSError):
                groups = Path("/proc", entry, "cgroup").read_bytes()
                if any(name in groups for name in names):
                    found.add(int(entry))
    return found


def below(owner: int) -> set[int]:
    """All processes that must end with an owner, wherever they run."""
    return descendants(owner) | in_containers_of(owner)


def inner_pid(pid: int) -> int:
    """A process's id as it is seen in the sandbox; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))


def wait_gone(pids: set[int], timeout: float = 5.0) -> set[int]:
    """Wait until processes have ended, woken by the kernel; returns those that have not."""
    deadline = time.monotonic() + timeout
    left = set()
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
        finally:
            os.close(handle)
        if not ready:
            left.add(pid)
    return left


class Owner:
    """A Python process of its own that starts sandboxes and tells about them, line by line."""

    def __init__(self, script: str, *, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            close_fds=False,
            text=True,
        )

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.close_input()
        self.process.communicate()

    def close_input(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
            self.process.stdin = None

    def tells(self) -> Any:
        """The next line it prints, as JSON."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate(timeout=10)
            raise AssertionError(f"it ended with {self.process.returncode}: {errors}")
        return json.loads(line)

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def below(self) -> set[int]:
        return below(self.process.pid)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)


CHURN = """
import json, threading, rock_gym
def churn():
    while True:
        with rock_gym.Sandbox.start({image!r}, backend={backend!r}) as sandbox:
            sandbox.execute("true")
threads = [threading.Thread(target=churn, daemon=True) for _ in range(4)]
{before}
print("1", flush=True)
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def launchers_of(owner: int) -> set[int]:
    """Launchers of an owner, their forkers, and what has not become anything else yet."""
    words = {pid: command_line(pid).split() for pid in parents()}
    return {
        pid
        for pid, line in words.items()
        if line[-1:] == [str(owner)]
        and any(word.endswith(("/launcher", "rock-gym-forker")) for word in line)
    }


def kill_owners_that_start(backend: str, image: str | None = None, *, warm: bool = True) -> None:
    """Kill owners while they start sandboxes, each at another moment: nothing is to be left.

    Args:
        backend: What the sandboxes are.
        image: Their image.
        warm: Whether each owner has started one before, so that what is made once is there.
    """
    first = f"rock_gym.Sandbox.start({image!r}, backend={backend!r}).delete()" if warm else ""
    script = CHURN.format(backend=backend, image=image, before=first)
    before = orphans()
    for delay in (0.0, 0.01, 0.03, 0.1, 0.2) * 2:
        with Owner(script) as owner:
            owner.tells()
            time.sleep(delay)
            os.kill(owner.process.pid, signal.SIGSTOP)
            below = owner.below()
            owner.kill()
            owner.process.wait(10)
            left = wait_gone(below, 5)
            assert not left, {pid: command_line(pid) for pid in left}
            # What was begun after that look has no parent any more that could be asked.
            assert eventually(lambda owner=owner: not launchers_of(owner.process.pid))
    assert eventually(lambda: orphans() <= before), {
        pid: command_line(pid) for pid in orphans() - before
    }


def forget(things: list[Any]) -> None:
    """Drop what is in a list, which must hold the last references to it."""
    things.clear()
    gc.collect()


def run_owner(script: str, *, env: dict[str, str] | None = None, timeout: float = 60.0) -> Any:
    """Run a script in a process of its own to its end; returns the JSON it prints."""
    with Owner(script, env=env) as owner:
        told = owner.tells()
        owner.close_input()
        _, errors = owner.process.communicate(timeout=timeout)
        assert owner.process.returncode == 0, errors
    return told
