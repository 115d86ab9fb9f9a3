"""The embedded backend: sandboxes by bubblewrap, without a daemon, a server or root.

A sandbox starts in milliseconds and nothing of it outlives its owner. This module is the owner's
side; what happens on the other side of the socket is in ``launcher/``.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import re
import resource
import select
import shutil
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import IO, Any

from rock_gym.backends import host
from rock_gym.backends.base import (
    CHANNEL_FD,
    CONTROL,
    CONTROL_FD,
    SCRIPT_FD,
    STDERR,
    STDOUT,
    Capabilities,
    CommittedImage,
    FileWriter,
    Line,
)
from rock_gym.backends.files import DescriptorWriter
from rock_gym.backends.launch import Launcher, owned_pair, receive_reply, send_request
from rock_gym.backends.process import PipeProcess
from rock_gym.errors import (
    BackendUnavailable,
    FileError,
    ImageNotFound,
    SandboxClosed,
    SandboxLost,
    SpecError,
    StartFailed,
)
from rock_gym.spec import SandboxSpec

_log = logging.getLogger("rock_gym")

_MINIMUM_VERSION = (0, 8, 0)
_DEFAULT_DISK_BYTES = 1 << 30
_DEFAULT_PIDS = 512
_SHM_BYTES = 64 << 20
_NOFILE = 4096
_OPEN_S = 30.0
_ENDED = "it ended by itself or was killed from outside"

# Kernel user ids of sandboxes that root starts: a stretch that no distribution, user database
# or container manager hands out. Drawn at random, as owners do not know of each other.
_KUIDS = range(0x7000_0000, 0x7FFF_0000)


class BubblewrapBackend:
    """Starts sandboxes with bwrap. See ``Backend``."""

    name = "bubblewrap"
    capabilities = Capabilities(
        sockets=True, control=True, memory="rlimit", cpu="none", pids="rlimit", disk="tmpfs"
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._launcher: Launcher | None = None
        self._containers: weakref.WeakSet[BubblewrapContainer] = weakref.WeakSet()

    def check(self, spec: SandboxSpec) -> None:
        """Refuse what can never be started here; see ``Backend.check``."""
        _find_bwrap()
        if spec.network != "none":
            raise SpecError(
                f"embedded sandboxes have no network, so network={spec.network!r} cannot be had; "
                "use network='none', or backend='docker'"
            )
        if (only := spec.only_docker()) is not None:
            raise SpecError(
                f"embedded sandboxes cannot do what {only.removesuffix('_bytes')}= asks for; "
                "leave it out, or use backend='docker'"
            )
        if spec.image not in (None, "host"):
            raise ImageNotFound(
                f"no embedded image {spec.image!r}; use image='host', or backend='docker' with "
                "an image of the engine"
            )

    def start(
        self, spec: SandboxSpec, sandbox_id: str, timeout_s: float = 60.0
    ) -> BubblewrapContainer:
        """Start a sandbox; see ``Backend.start``."""
        self.check(spec)
        plan = host.host_plan(spec.read_only)
        request = _start_request(plan, spec)
        sock = self._running_launcher().start(request, plan.key, plan.template)
        try:
            reply, _ = receive_reply(sock, time.monotonic() + timeout_s)
        except TimeoutError:
            sock.close()
            raise StartFailed(
                f"the sandbox did not come up within {timeout_s:g} s; is the machine overloaded?",
                sandbox_id=sandbox_id,
            ) from None
        except BaseException:
            sock.close()
            raise
        if "pid" not in reply:
            sock.close()
            raise _start_error(str(reply.get("error", "the launcher ended")), sandbox_id)
        container = BubblewrapContainer(sandbox_id, sock, reply["pid"], request["kuid"], plan, spec)
        self._containers.add(container)
        return container

    def _running_launcher(self) -> Launcher:
        with self._lock:
            if self._launcher is None or not self._launcher.is_usable():
                if self._launcher is not None:
                    self._launcher.close()
                self._launcher = Launcher()
            return self._launcher

    def close(self) -> None:
        """Kill every sandbox that is left; see ``Backend.close``."""
        for container in tuple(self._containers):
            container.kill()
        with self._lock:
            launcher, self._launcher = self._launcher, None
        if launcher is not None:
            launcher.close()


class BubblewrapContainer:
    """A running sandbox. See ``Container``."""

    workdir = host.WORK
    run_dir = host.RUN
    script_dir = host.SCRIPTS
    takes_sockets = True

    def __init__(
        self,
        sandbox_id: str,
        sock: socket.socket,
        pid: int,
        kuid: int | None,
        plan: host.Plan,
        spec: SandboxSpec,
    ) -> None:
        self.id = sandbox_id
        self.pid = pid
        self.kuid = kuid
        self.shell = plan.shell
        self.environ: Mapping[str, str] = {**plan.environ, **dict(spec.env)}
        self._sock = sock
        self._lock = threading.Lock()
        self._killed = False

    def open(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bool = False,
        script: bool = False,
        merge_stderr: bool = False,
        control: bool = False,
        channel: socket.socket | None = None,
    ) -> PipeProcess:
        """Start a process inside; see ``Container.open``."""
        streams = _Streams(merge_stderr, control, channel)
        if script:
            streams.open_script(self.kuid)
        elif stdin:
            streams.open_stdin()
        else:
            streams.open_empty()
        request = {
            "op": "open",
            "argv": list(argv),
            "env": {**self.environ, **(env or {})},
            "targets": streams.targets,
            "start": self.script_dir if script else None,
        }
        try:
            status, reply, _ = self._ask(request, cwd, streams.theirs)
        except BaseException:
            streams.close_ours()
            raise
        finally:
            streams.close_theirs()
        return PipeProcess(self.id, reply["pid"], status, streams.stdin, streams.outputs)

    def open_line(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> tuple[PipeProcess, Line]:
        """Not needed here; see ``Container.open_line``."""
        raise NotImplementedError("sockets are passed: use open(channel=...)")

    def open_read(self, path: str) -> IO[bytes]:
        """Open a regular file; see ``Container.open_read``."""
        status, _, fds = self._ask({"op": "read", "path": path})
        status.close()
        return os.fdopen(fds[0], "rb", buffering=0)

    def open_write(self, path: str, *, mode: int | None = None) -> FileWriter:
        """Begin a file; see ``Container.open_write``."""
        status, _, fds = self._ask({"op": "write", "path": path, "mode": mode})
        return DescriptorWriter(fds[0], status, path, self.id)

    def _ask(
        self, request: dict[str, Any], cwd: str | None = None, fds: Sequence[int] = ()
    ) -> tuple[socket.socket, dict[str, Any], list[int]]:
        """Send a request about this sandbox, and wait for its answer."""
        directory = os.path.join(self.workdir, cwd or "")
        ours, theirs = owned_pair()
        try:
            with theirs:
                self._send({**request, "cwd": directory}, [theirs.fileno(), *fds])
            reply, received = receive_reply(ours, time.monotonic() + _OPEN_S)
            if "error" in reply or not reply:
                path = request["path"] if "path" in request else request["argv"][0]
                if reply.get("path") == directory:
                    path = cwd or self.workdir
                raise self._error(path, reply)
        except TimeoutError:
            ours.close()
            raise self._lost(f"it did not answer within {_OPEN_S:g} s") from None
        except BaseException:
            ours.close()
            raise
        return ours, reply, received

    def _send(self, request: dict[str, Any], fds: Sequence[int]) -> None:
        # A packet is sent whole, so requests of several threads do not mix. The lock is for the
        # descriptor, which kill() closes.
        with self._lock:
            if self._killed:
                raise SandboxClosed("the sandbox was stopped", sandbox_id=self.id)
            try:
                send_request(self._sock, request, fds)
            except OSError as error:
                raise self._lost() from error

    def _error(self, path: str, reply: dict[str, Any]) -> Exception:
        reason = reply.get("error", "lost")
        if reason in ("lost", "ESRCH"):
            if self._killed:
                return SandboxClosed("the sandbox was stopped", sandbox_id=self.id)
            return self._lost(reply["text"]) if reply.get("text") else self._lost()
        return FileError(
            f"{path}: {reply.get('text') or reason}",
            path=path,
            reason=reason,
            sandbox_id=self.id,
        )

    def _lost(self, why: str = _ENDED) -> SandboxLost:
        return SandboxLost(
            f"the sandbox is gone: {why}; start or acquire another one", sandbox_id=self.id
        )

    def commit(self, name: str) -> CommittedImage:
        """See ``Container.commit``."""
        raise SpecError(
            "embedded sandboxes cannot be committed; use backend='docker' to keep files as an image"
        )

    def why_ended(self) -> str:
        """Say why it no longer runs; see ``Container.why_ended``."""
        return _ENDED

    def is_alive(self) -> bool:
        """Whether it still runs; see ``Container.is_alive``."""
        with self._lock:
            return not self._killed and not self._is_gone(0)

    def _is_gone(self, timeout_s: float) -> bool:
        """Whether all in it is gone: the launcher then closes its end, having nothing to say."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def kill(self) -> None:
        """End it, and return when all in it is gone; see ``Container.kill``."""
        with self._lock:
            if self._killed:
                return
            self._killed = True
            # Not a mere close: a forked child may hold a copy of this descriptor.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
        if not self._is_gone(_OPEN_S):
            _log.warning("%s did not end within %g s", self.id, _OPEN_S)
        self._sock.close()


class _Streams:
    """The pipes of one process: our ends, and their ends with the numbers they get inside."""

    def __init__(self, merge_stderr: bool, control: bool, channel: socket.socket | None) -> None:
        self.stdin: int | None = None
        self.outputs: dict[int, int] = {}
        self.theirs: list[int] = []
        self.targets: list[list[int]] = []
        self._borrowed: set[int] = set()
        self._output(STDOUT, [1, 2] if merge_stderr else [1])
        if not merge_stderr:
            self._output(STDERR, [2])
        if control:
            self._output(CONTROL, [CONTROL_FD])
        if channel is not None:
            self._borrowed.add(channel.fileno())
            self._give(channel.fileno(), [CHANNEL_FD])

    def open_empty(self) -> None:
        self._give(os.open(os.devnull, os.O_RDONLY), [0])

    def open_stdin(self, number: int = 0) -> int:
        read, self.stdin = os.pipe()
        self._give(read, [number])
        return read

    def open_script(self, kuid: int | None) -> None:
        self.open_empty()
        read = self.open_stdin(SCRIPT_FD)
        if kuid is not None:
            # The shell opens it by its name in /proc, which only its owner may.
            os.fchown(read, kuid, kuid)

    def _give(self, fd: int, numbers: list[int]) -> None:
        self.theirs.append(fd)
        self.targets.append(numbers)

    def _output(self, stream: int, numbers: list[int]) -> None:
        self.outputs[stream], write = os.pipe()
        self._give(write, numbers)

    def close_theirs(self) -> None:
        for fd in self.theirs:
            if fd not in self._borrowed:
                os.close(fd)

    def close_ours(self) -> None:
        for fd in self.outputs.values():
            os.close(fd)
        if self.stdin is not None:
            os.close(self.stdin)


def _start_request(plan: host.Plan, spec: SandboxSpec) -> dict[str, Any]:
    return {
        "argv": [_find_bwrap(), *plan.argv],
        "kuid": random.SystemRandom().choice(_KUIDS) if os.geteuid() == 0 else None,
        "size": spec.resources.disk_bytes or _DEFAULT_DISK_BYTES,
        "identity": {"uid": host.UID, "gid": host.GID, "rlimits": _rlimits(spec)},
        "shm_size": _SHM_BYTES,
        "writable": plan.writable,
        "late": plan.late,
    }


def _rlimits(spec: SandboxSpec) -> list[tuple[str, int]]:
    """Return the limits that each process inside gets; they can only be lowered inside."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    nofile = _NOFILE if hard == resource.RLIM_INFINITY else min(_NOFILE, hard)
    limits = [
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NOFILE", nofile),
        # Counted in the sandbox's own user namespace, so that sandboxes do not share it.
        ("RLIMIT_NPROC", spec.resources.pids or _DEFAULT_PIDS),
    ]
    if spec.resources.memory_bytes is not None:
        limits.append(("RLIMIT_AS", spec.resources.memory_bytes))
    return limits


@functools.cache
def _find_bwrap() -> str:
    path = shutil.which("bwrap", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")
    if path is None:
        raise BackendUnavailable(
            "embedded sandboxes need bubblewrap, which is not installed; "
            "install it with: apt-get install bubblewrap"
        )
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    version = tuple(map(int, found.groups())) if found else (0, 0, 0)
    if version < _MINIMUM_VERSION:
        raise BackendUnavailable(
            f"embedded sandboxes need bubblewrap 0.8.0 or newer, and {path} says "
            f"{text.strip()!r}; upgrade the package, or use backend='docker'"
        )
    return path


def _start_error(text: str, sandbox_id: str) -> Exception:
    """Tell a machine that cannot run sandboxes from a sandbox that failed."""
    denied = ("Operation not permitted", "Permission denied", "No space left on device")
    if any(words in text for words in denied) and (
        "namespace" in text or "unshare" in text or "uid map" in text
    ):
        return BackendUnavailable(
            f"this machine does not let {'root' if os.geteuid() == 0 else 'ordinary users'} make "
            f"user namespaces ({text}). Remedies: sysctl -w user.max_user_namespaces=65536; "
            "on Ubuntu 23.10 and later sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; "
            "in a container, run it with a seccomp profile that allows unshare and mount",
            sandbox_id=sandbox_id,
        )
    return StartFailed(f"the sandbox did not start: {text}", sandbox_id=sandbox_id, output=text)
