"""What the benchmarks compare with: the same work done with as little as possible."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rock_gym.backends.seccomp import filter_program


def bwrap_flags() -> list[str]:
    """The flags with which bwrap alone makes a sandbox like the embedded backend's."""
    flags = ["--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000"]
    flags += ["--gid", "1000", "--hostname", "sandbox", "--cap-drop", "ALL", "--die-with-parent"]
    flags += ["--new-session", "--as-pid-1", "--clearenv", "--ro-bind", "/usr", "/usr"]
    for path in ("/bin", "/sbin", "/lib", "/lib64"):
        if os.path.islink(path):
            flags += ["--symlink", os.readlink(path), path]
    for name in ("alternatives", "ld.so.cache", "localtime", "nsswitch.conf", "passwd", "ssl"):
        flags += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    flags += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    for path in ("/dev/shm", "/tmp", "/home/user", "/work"):
        flags += ["--size", str(64 << 20), "--tmpfs", path]
    for prefix in sorted({sys.prefix, sys.base_prefix} - {"/usr"}):
        flags += ["--ro-bind", prefix, prefix]
    return [*flags, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/work"]


def _bwrap(*argv: str) -> tuple[list[str], int]:
    """Return a command, and the descriptor that it has to inherit."""
    program = os.memfd_create("seccomp")
    os.write(program, filter_program())
    os.lseek(program, 0, os.SEEK_SET)
    return ["bwrap", *bwrap_flags(), "--seccomp", str(program), "--", *argv], program


def bare_bwrap() -> Callable[[], object]:
    """Return a call that runs ``true`` in bwrap."""
    command, program = _bwrap("true")

    def run() -> None:
        try:
            subprocess.run(command, env={}, pass_fds=[program], check=True)
        finally:
            os.close(program)

    return run


@contextmanager
def waiting_bwrap() -> Iterator[None]:
    """One that waits inside for the end of its input."""
    command, program = _bwrap("sh", "-c", "echo; read line")
    try:
        process = subprocess.Popen(
            command, env={}, pass_fds=[program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    finally:
        os.close(program)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.communicate()


class RawBash:
    """bash on two pipes, with no care for anything: a command, its code, a line."""

    def __enter__(self) -> RawBash:
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        return self

    def run(self, command: str) -> bytes:
        os.write(self.stdin, f"{command}\necho $?\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            answer += os.read(self.stdout, 65536)
        return answer

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class GemInProcess:
    """A process that imports gem and times its own steps."""

    def __init__(self, gem_id: str, action: str) -> None:
        self.arguments = [gem_id, action]

    def __enter__(self) -> GemInProcess:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "gem-steps", *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def steps(self, count: int) -> list[float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(count, file=self.process.stdin, flush=True)
        taken: list[float] = json.loads(self.process.stdout.readline())
        return taken

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class EchoProcess:
    """A process that sends back what it gets over a socket."""

    _MESSAGE = b"x" * 64

    def __enter__(self) -> EchoProcess:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\n"
        code += "while data := s.recv(65536): s.send(data)"
        self._socket = ours
        with theirs:
            command = [sys.executable, "-I", "-S", "-c", code, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self.pid = self._process.pid
        return self

    def turn(self) -> None:
        self._socket.send(self._MESSAGE)
        self._socket.recv(65536)

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait()


def fork_many(number: int) -> float:
    """Seconds until so many forks of a small Python have said that they run."""
    code = (
        "import os, sys, time\nstart = time.perf_counter()\nread, write = os.pipe()\n"
        f"for _ in range({number}):\n"
        "    if os.fork() == 0: os.write(write, b'x'); time.sleep(9); os._exit(0)\n"
        f"while {number} > 0:\n"
        f"    got = globals().get('got', 0) + len(os.read(read, {number}))\n"
        f"    if got == {number}: break\n"
        "print(time.perf_counter() - start, flush=True)\nos.killpg(0, 9)"
    )
    process = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    return float(process.stdout)


def proportional_mb(pid: int) -> float:
    """Proportional memory of a process in MB; none of one that has ended.

    Raises:
        PermissionError: To an ordinary user, as env processes let nobody look into them.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def below(root: int) -> set[int]:
    """The processes that descend from one."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(text.rpartition(")")[2].split()[1])
    found: set[int] = set()
    level = {root}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level} - found
        found |= level
    return found


def imported_gem_mb() -> float:
    """Proportional memory of a process that has imported gem."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import gem; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        return proportional_mb(process.pid)
    finally:
        process.communicate(b"\n")


def _serve_gem_steps(gem_id: str, action: str) -> None:
    import gem

    out, sys.stdout = sys.stdout, sys.stderr
    env: Any = gem.make(gem_id)
    for line in sys.stdin:
        taken: list[float] = []
        env.reset(seed=1)
        while len(taken) < int(line):
            start = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(action)
            taken.append(time.perf_counter() - start)
            if terminated or truncated:
                env.reset(seed=1)
        print(json.dumps(taken), file=out, flush=True)


def _first_reset(gem_id: str) -> None:
    import rock_gym

    env = rock_gym.make(gem_id, backend="bubblewrap")
    start = time.perf_counter()
    env.reset(seed=1)
    print(time.perf_counter() - start)
    env.close()


if __name__ == "__main__":
    if sys.argv[1] == "gem-steps":
        _serve_gem_steps(*sys.argv[2:])
    else:
        _first_reset(*sys.argv[2:])
