"""A sandbox that is none: a directory and processes of this machine, for what isolation is not."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rock_gym.backends.base import Capabilities
from rock_gym.backends.handles import STDERR, STDOUT
from rock_gym.errors import PoolClosed
from rock_gym.gem.image import image_python
from rock_gym.gem.interpreter import find_guest_python
from tests.contract.support import members

STUB = str(Path(__file__).with_name("stub"))

_MOVE = (
    "import os, sys; fd = int(sys.argv[1]); os.dup2(fd, 3); fd == 3 or os.close(fd); "
    "os.execvpe(sys.argv[2], sys.argv[2:], os.environ)"
)


def have_stubs(patch: pytest.MonkeyPatch) -> None:
    """Have guests come up at once, with a stub in the place of GEM; sandboxes must show STUB."""
    found = find_guest_python()
    here = dataclasses.replace(found, site_dirs=(STUB, *found.site_dirs), cache=None)
    patch.setattr("rock_gym.gem.places.find_guest_python", lambda executable: here)
    found = image_python()
    in_image = dataclasses.replace(found, site_dirs=(STUB, *found.site_dirs), cache=None)
    patch.setattr("rock_gym.gem.places.image_python", lambda executable: in_image)


class LocalProcess:
    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen
        # Known once it was received, as the contract says.
        self.exit_code: int | None = None
        assert popen.stdout is not None
        assert popen.stderr is not None
        self._open = {popen.stdout.fileno(): STDOUT, popen.stderr.fileno(): STDERR}

    def receive(self, timeout_s: float | None = None) -> list[tuple[int, bytes]]:
        while self._open:
            ready, _, _ = select.select(list(self._open), [], [], timeout_s)
            found = [(self._open[fd], os.read(fd, 65536)) for fd in ready]
            for fd, (_, data) in zip(ready, found, strict=True):
                if not data:
                    del self._open[fd]
            if not ready or any(data for _, data in found):
                return [part for part in found if part[1]]
        self.exit_code = self.popen.wait(timeout_s)
        return []

    def kill_descendants(self, signal: int, spare: frozenset[int] = frozenset()) -> int:
        return 0

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.popen.kill()

    def close(self) -> None:
        for stream in (self.popen.stdout, self.popen.stderr):
            assert stream is not None
            stream.close()


class LocalSandbox:
    capabilities = Capabilities(
        sockets=True, control=False, memory="none", cpu="none", pids="none", disk="none"
    )
    backend = "local"

    def __init__(self, pool: LocalPool, number: int) -> None:
        self.id = f"sandbox-{number:012x}"
        self.root = tempfile.mkdtemp(prefix="rock-gym-test-")
        self.run_dir = f"{self.root}/run"
        self.workdir = f"{self.root}/work"
        self.last_use_s = time.monotonic()
        self.processes: list[LocalProcess] = []
        self.stopped = False
        self._pool = pool
        os.mkdir(self.run_dir)
        os.mkdir(self.workdir)

    def open(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        channel: socket.socket | None = None,
        **_: Any,
    ) -> LocalProcess:
        assert channel is not None
        popen = subprocess.Popen(
            [sys.executable, "-c", _MOVE, str(channel.fileno()), *argv],
            pass_fds=[channel.fileno()],
            env={"PATH": os.environ["PATH"], "HOME": self.root, "LANG": "C.UTF-8", **(env or {})},
            cwd=self.workdir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.processes.append(LocalProcess(popen))
        return self.processes[-1]

    def write_file(self, path: str, content: str | bytes) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    def is_alive(self) -> bool:
        return not self.stopped

    def stop(self) -> None:
        self.stopped = True
        for process in self.processes:
            process.kill()
            process.popen.wait()
            process.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def release(self) -> None:
        self._pool.leased.discard(self)
        self.stop()


class LocalPool:
    """Counts what it lends."""

    backend = "local"

    def __init__(self) -> None:
        self.started = 0
        self.leased: set[LocalSandbox] = set()
        self._closers: list[Callable[[], None]] = []
        self._closed = False

    def acquire(self, timeout: float | None = 60.0) -> Any:
        if self._closed:
            raise PoolClosed("closed")
        self.started += 1
        sandbox = LocalSandbox(self, self.started)
        self.leased.add(sandbox)
        return sandbox

    def on_close(self, callback: Callable[[], None]) -> None:
        self._closers.append(callback)

    def close(self) -> None:
        self._closed = True
        for closer in self._closers:
            closer()
        for sandbox in tuple(self.leased):
            sandbox.release()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pid_of(worker: Any) -> int:
    """The host's id of an environment's process."""
    assert worker.pid is not None
    if worker.sandbox.backend != "docker":
        return int(worker.pid)
    for pid in members(worker.sandbox):
        inner = re.search(r"^NSpid:.*\t(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
        if inner is not None and int(inner[1]) == worker.pid:
            return pid
    raise AssertionError(f"no process {worker.pid} in {worker.sandbox}")


def kill(pid: int) -> None:
    """Kill a process and wait until it is gone."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)
