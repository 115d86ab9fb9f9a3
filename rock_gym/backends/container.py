"""A running embedded sandbox, as its owner holds it: by one end of a socket to the launcher."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, TypeVar

from rock_gym.backends.base import CommittedImage, LimitHits, Statistics
from rock_gym.backends.figures import Figures
from rock_gym.backends.files import DescriptorWriter
from rock_gym.backends.handles import FileWriter, Line
from rock_gym.backends.imaged import commit_image
from rock_gym.backends.launch import no_namespaces, owned_pair, receive_reply, send_packet
from rock_gym.backends.plan import Plan
from rock_gym.backends.process import PipeProcess
from rock_gym.backends.requests import program_request, read_request, write_request
from rock_gym.backends.streams import Streams
from rock_gym.backends.terminal import PipeTerminal
from rock_gym.backends.trees import DescriptorTreeReader, DescriptorTreeWriter
from rock_gym.errors import (
    BackendUnavailable,
    FileError,
    ImageError,
    SandboxClosed,
    SandboxLost,
    StartFailed,
)
from rock_gym.spec import SandboxSpec

_log = logging.getLogger("rock_gym")

DEFAULT_PIDS = 512
_OPEN_S = 30.0
_END_S = 2.0

_T = TypeVar("_T")


class BubblewrapContainer:
    """A running sandbox. See ``Container``."""

    takes_sockets = True
    limits_disk = True

    def __init__(
        self,
        sandbox_id: str,
        sock: socket.socket,
        reply: dict[str, Any],
        kuid: int | None,
        plan: Plan,
        spec: SandboxSpec,
    ) -> None:
        self.id = sandbox_id
        self.kuid = kuid
        self.workdir = plan.workdir
        self.run_dir = plan.run_dir
        self.script_dir: str | None = plan.script_dir
        self.shell = plan.shell
        self.environ: Mapping[str, str] = {**plan.environ, **dict(spec.env)}
        self._spec = spec
        self._plan = plan
        self._sock = sock
        self._lock = threading.Lock()
        self._restarting = threading.Lock()
        self._killed = False
        self.freed: Callable[[], object] = lambda: None
        self._begin(reply)

    def _begin(self, reply: dict[str, Any]) -> None:
        """Take note of a start."""
        self.pid: int = reply["pid"]
        self._stopped = False
        resources = self._spec.resources
        self._figures = Figures(
            self.pid,
            reply["groups"],
            self.workdir,
            resources.memory_bytes if "memory" in reply["groups"] else None,
            resources.pids or DEFAULT_PIDS,
        )

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
        streams = Streams(merge_stderr, control, channel)
        if script:
            streams.open_script(self.kuid)
        elif stdin:
            streams.open_stdin()
        else:
            streams.open_empty()
        request = program_request(
            argv,
            {**self.environ, **(env or {})},
            self._directory(cwd),
            start=self.script_dir if script else None,
            targets=streams.targets,
        )
        try:
            status = self._request(request, streams.theirs)
            reply, _ = self._answer(status, argv[0], cwd)
        except BaseException:
            streams.close_ours()
            raise
        finally:
            streams.close_theirs()
        return PipeProcess(self.id, reply["pid"], status, streams.stdin, streams.outputs)

    def open_terminal(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        rows: int = 24,
        columns: int = 80,
    ) -> PipeTerminal:
        """Start a process on a terminal; see ``Container.open_terminal``."""
        environ = {**self.environ, **(env or {})}
        request = program_request(argv, environ, self._directory(cwd), size=(rows, columns))
        status, fds = self._ask_for_file(request, argv[0], cwd)
        try:
            # The terminal is there; now for the program.
            reply, _ = self._answer(status, argv[0], cwd)
        except BaseException:
            os.close(fds[0])
            raise
        return PipeTerminal(fds[0], PipeProcess(self.id, reply["pid"], status, None, {}))

    def open_line(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> tuple[PipeProcess, Line]:
        """Not needed here; see ``Container.open_line``."""
        raise NotImplementedError("sockets are passed: use open(channel=...)")

    def why_ended(self) -> str:
        """Say why it no longer runs; see ``Container.why_ended``."""
        return "it ended by itself or was killed from outside"

    def open_read(self, path: str) -> IO[bytes]:
        """Open a regular file; see ``Container.open_read``."""
        status, fds = self._ask_for_file(read_request(path, self.workdir), path)
        status.close()
        return os.fdopen(fds[0], "rb", buffering=0)

    def open_write(self, path: str, *, mode: int | None = None) -> FileWriter:
        """Begin a file; see ``Container.open_write``."""
        status, fds = self._ask_for_file(write_request(path, mode, self.workdir), path)
        return DescriptorWriter(fds[0], status, path, self.id)

    def read_tree(self, path: str) -> DescriptorTreeReader:
        """Begin to read a tree; see ``Container.read_tree``."""
        request = {"op": "read_tree", "path": path, "cwd": self.workdir}
        sock = self._request(json.dumps(request).encode())
        return _or_close(sock, lambda: DescriptorTreeReader(sock, path, self._error))

    def write_tree(self, path: str) -> DescriptorTreeWriter:
        """Begin to write a tree; see ``Container.write_tree``."""
        request = {"op": "write_tree", "path": path, "cwd": self.workdir}
        sock = self._request(json.dumps(request).encode())
        return _or_close(sock, lambda: DescriptorTreeWriter(sock, path, self.id, self._error))

    def _directory(self, cwd: str | None) -> str:
        return os.path.join(self.workdir, cwd or "")

    def _request(self, request: bytes, fds: Sequence[int] = ()) -> socket.socket:
        """Send a request about this sandbox; what it answers comes over the returned socket."""
        ours, theirs = owned_pair()
        try:
            # A packet is sent whole, so requests of several threads do not mix.
            with theirs, self._sending():
                send_packet(self._sock, request, [theirs.fileno(), *fds])
        except BaseException:
            ours.close()
            raise
        return ours

    def _ask_for_file(
        self, request: bytes, path: str, cwd: str | None = None
    ) -> tuple[socket.socket, list[int]]:
        """Ask for a descriptor. A process inside opens it, and may be killed before it does."""
        sock = self._request(request)
        _, fds = self._answer(sock, path, cwd)
        if fds:
            return sock, fds
        sock.close()
        if not self.is_alive():
            raise self._error("", {})
        raise self._error(path, {"error": "EINTR", "text": "what opens it was killed; try again"})

    def _answer(
        self, sock: socket.socket, path: str, cwd: str | None
    ) -> tuple[dict[str, Any], list[int]]:
        """Wait for an answer; without one, or when it is an error, the socket is closed."""
        try:
            reply, received = receive_reply(sock, time.monotonic() + _OPEN_S)
            if "error" in reply or not reply:
                raise self._error(cwd or self.workdir if reply.get("directory") else path, reply)
        except TimeoutError:
            sock.close()
            raise self._lost(f"it did not answer within {_OPEN_S:g} s") from None
        except BaseException:
            sock.close()
            raise
        return reply, received

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        # The lock is for the descriptor, which kill() closes.
        with self._lock:
            if self._killed or self._stopped:
                raise SandboxClosed("the sandbox was stopped", sandbox_id=self.id)
            try:
                yield
            except OSError as error:
                raise self._lost() from error

    def _error(self, path: str, reply: dict[str, Any]) -> Exception:
        reason = reply.get("error", "lost")
        if reason in ("lost", "ESRCH"):
            if self._killed or self._stopped:
                return SandboxClosed("the sandbox was stopped", sandbox_id=self.id)
            return self._lost(reply["text"]) if reply.get("text") else self._lost()
        return FileError(
            f"{path}: {reply.get('text') or reason}",
            path=path,
            reason=reason,
            sandbox_id=self.id,
        )

    def _lost(self, why: str = "it ended by itself or was killed from outside") -> SandboxLost:
        return SandboxLost(
            f"the sandbox is gone: {why}; start or acquire another one", sandbox_id=self.id
        )

    def commit(self, name: str) -> CommittedImage:
        """Make an image of it; see ``Container.commit``."""
        return commit_image(name, self._plan, self._copy_written)

    def _copy_written(self, target: int) -> int:
        """Have what it has written copied to a directory, and return the size of the files."""
        ours, theirs = owned_pair()
        with ours:
            with theirs, self._sending():
                socket.send_fds(self._sock, [b"commit"], [theirs.fileno(), target])
            # It has no limit: it is bounded by the size of the disk, and ends with the sandbox.
            reply, _ = receive_reply(ours, None)
        if not reply:
            raise self._error(self.workdir, {"error": "lost"})
        if "error" in reply:
            raise ImageError(f"the sandbox cannot be committed: {reply['error']}")
        return int(reply["size"])

    def statistics(self) -> Statistics:
        """Tell what it uses; see ``Container.statistics``."""
        figures = self._figures
        try:
            found = figures.statistics()
        except OSError:
            found = None
        # Only what was read while it lived is true: process numbers are used again.
        if found is None or not self.is_alive():
            if self._killed or self._stopped:
                raise SandboxClosed("the sandbox was stopped", sandbox_id=self.id)
            raise self._lost()
        return found

    def note_limits(self) -> Callable[[], LimitHits]:
        """Note how often it ran into limits; see ``Container.note_limits``."""
        hits = self._figures.limit_hits()
        return lambda: hits

    def limit_hits(self) -> LimitHits:
        """Tell how often it ran into limits; see ``Container.limit_hits``."""
        return self._figures.limit_hits()

    def limits_reached(self) -> frozenset[str]:
        """Tell which limits it is at; see ``Container.limits_reached``."""
        reached = self._figures.limits_reached()
        return reached if self.is_alive() else frozenset()

    def is_alive(self) -> bool:
        """Whether it still runs; see ``Container.is_alive``."""
        with self._lock:
            return not self._killed and not self._stopped and not self._is_gone(0)

    def _is_gone(self, timeout_s: float) -> bool:
        """Whether all in it is gone: the launcher then shuts its end, having nothing to say."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def stop(self) -> None:
        """End it and keep its files; see ``Container.stop``."""
        with self._lock:
            if self._killed:
                return
            if not self._stopped:
                self._stopped = True
                with contextlib.suppress(OSError):
                    self._sock.send(b"stop")
        self._wait_gone()

    def restart(self, timeout_s: float = 60.0) -> None:
        """Start it again; see ``Container.restart``."""
        with self._restarting:
            self.stop()
            self._ask_restart()
            try:
                self._begin(await_start(self._sock, self.id, timeout_s))
            except StartFailed:
                if self._killed:
                    raise SandboxClosed("the sandbox was deleted", sandbox_id=self.id) from None
                raise

    def _ask_restart(self) -> None:
        """Exchange the socket, which has come to its end, for another one."""
        ours, theirs = owned_pair()
        try:
            with theirs, self._lock:
                if self._killed:
                    raise SandboxClosed("the sandbox was deleted", sandbox_id=self.id)
                if not self._is_gone(0):
                    raise StartFailed(
                        f"it has not ended within {_END_S:g} s; try again", sandbox_id=self.id
                    )
                socket.send_fds(self._sock, [b"restart"], [theirs.fileno()])
                ours, self._sock = self._sock, ours
        except OSError as error:
            raise self._lost("its files are no more") from error
        finally:
            ours.close()

    def kill(self) -> None:
        """End it and free its files; see ``Container.kill``."""
        with self._lock:
            if self._killed:
                return
            self._killed = True
            # Not a mere close: a forked child may hold a copy of this descriptor.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
        self._wait_gone()
        with self._restarting, self._lock:
            self._sock.close()
        self.freed()

    def _wait_gone(self) -> None:
        # By a descriptor of its own: another thread may close the socket meanwhile, and its number
        # would soon be another file's.
        with self._lock:
            if self._sock.fileno() < 0:
                return
            fd = os.dup(self._sock.fileno())
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if not poll.poll(_END_S * 1000):
                _log.warning("%s did not end within %g s", self.id, _END_S)
        finally:
            os.close(fd)


def _or_close(sock: socket.socket, action: Callable[[], _T]) -> _T:
    try:
        return action()
    except BaseException:
        sock.close()
        raise


def await_start(sock: socket.socket, sandbox_id: str, timeout_s: float) -> dict[str, Any]:
    """Wait until a sandbox has come up."""
    try:
        reply, _ = receive_reply(sock, time.monotonic() + timeout_s)
    except TimeoutError:
        raise StartFailed(
            f"the sandbox did not come up within {timeout_s:g} s; is the machine overloaded?",
            sandbox_id=sandbox_id,
        ) from None
    if "pid" not in reply:
        raise _start_error(str(reply.get("error", "the launcher ended")), sandbox_id)
    return reply


def _start_error(text: str, sandbox_id: str) -> Exception:
    """Tell a machine that cannot run sandboxes from a sandbox that failed."""
    denied = ("Operation not permitted", "Permission denied", "No space left on device")
    if any(words in text for words in denied) and (
        "namespace" in text or "unshare" in text or "uid map" in text
    ):
        return BackendUnavailable(no_namespaces(text), sandbox_id=sandbox_id)
    return StartFailed(f"the sandbox did not start: {text}", sandbox_id=sandbox_id, output=text)
