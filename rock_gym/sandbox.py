"""A sandbox as its users see it: commands, named sessions, files, and a life with a history."""

from __future__ import annotations

import contextlib
import errno
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rock_gym.backends import get_backend
from rock_gym.backends.base import (
    Backend,
    Capabilities,
    CommittedImage,
    Container,
    Line,
    Process,
)
from rock_gym.errors import (
    FileError,
    RockGymError,
    SandboxClosed,
    SandboxLost,
    SessionClosed,
    SpecError,
)
from rock_gym.session import COMMAND_TIMEOUT_S, NamedShell, Session
from rock_gym.shell import (
    CommandResult,
    Shell,
    ShellResult,
    check_command,
    check_timeout,
    command_failed,
    run_command,
)
from rock_gym.spec import DockerOptions, SandboxSpec, check_env

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from typing_extensions import Unpack

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of a sandbox's state.

    Attributes:
        state: The state it came into: pending, running, stopped or deleted.
        time_s: When, in seconds since the epoch.
        reason: Why.
    """

    state: str
    time_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """What a sandbox is at the moment.

    Attributes:
        sandbox_id: Its id.
        state: pending, running, stopped or deleted.
        backend: The backend it runs on.
        image: Its image.
        sessions: Names of its open sessions.
        capabilities: What its backend can do and which limits it holds.
        history: All its changes of state, oldest first.
    """

    sandbox_id: str
    state: str
    backend: str
    image: str | None
    sessions: tuple[str, ...]
    capabilities: Capabilities
    history: tuple[Transition, ...]


class Sandbox:
    """An isolated place to run commands and keep files.

    Made by ``Sandbox.start`` or leased from a ``SandboxPool``. All methods may be called from any
    thread. A context manager: leaving it stops the sandbox, or gives it back to its pool.

    Attributes:
        id: ``sandbox-`` and 12 hexadecimal digits.
        spec: What it was asked to be.
        backend: The name of its backend.
    """

    def __init__(self, backend: Backend, spec: SandboxSpec, container: Container) -> None:
        self.id = container.id
        self.spec = spec
        self.backend = backend.name
        self.capabilities = replace(backend.capabilities, sockets=container.takes_sockets)
        self._container = container
        self._lock = threading.Lock()
        self._sessions: dict[str, NamedShell] = {}
        self._history = [Transition("pending", time.time(), "asked for")]
        self._enter("running", "started")
        self._on_leave: Callable[[Sandbox], None] | None = None
        self.last_use_s = time.monotonic()

    @classmethod
    def start(
        cls,
        image: str | None = None,
        *,
        backend: str | Backend = "auto",
        cpus: int | float | str | None = None,
        memory: int | float | str | None = None,
        disk: int | float | str | None = None,
        pids: int | None = None,
        network: str = "none",
        env: dict[str, str] | None = None,
        read_only: tuple[str, ...] = (),
        timeout: float = 60.0,
        **more: Unpack[DockerOptions],
    ) -> Sandbox:
        """Start a sandbox of its own, outside of any pool.

        Args:
            image: The image; None means the backend's default.
            backend: ``"auto"``, a backend's name, or a backend.
            cpus: CPUs' worth of time, such as 2 or "0.5".
            memory: Memory, such as "2g".
            disk: What it may write, such as "512m".
            pids: Processes alive at once.
            network: ``"none"`` or what else the backend offers.
            env: Environment variables.
            read_only: Host directories to show inside, read-only, at their own paths.
            timeout: Seconds until it must be up.
            **more: What only the Docker backend can do: profile, lifetime, pull, shm, ulimits,
                gpus, ports, run_dir and dockerfile; see ``SandboxSpec``.

        Raises:
            SpecError: If an argument makes no sense or the backend cannot do it.
            ImageNotFound: If there is no such image.
            BackendUnavailable: If this machine cannot run such sandboxes.
            StartFailed: If it did not come up.
        """
        spec = SandboxSpec.of(
            image,
            cpus=cpus,
            memory=memory,
            disk=disk,
            pids=pids,
            network=network,
            env=env,
            read_only=read_only,
            **more,
        )
        chosen = get_backend(backend, spec) if isinstance(backend, str) else backend
        return cls.from_spec(chosen, spec, timeout)

    @classmethod
    def from_spec(cls, backend: Backend, spec: SandboxSpec, timeout: float = 60.0) -> Sandbox:
        """Start a sandbox from a spec; raises as ``start``."""
        limit = check_timeout(timeout)
        if limit is None:
            raise SpecError("starting a sandbox needs a limit; pass timeout in seconds")
        return cls(backend, spec, backend.start(spec, new_id(), limit))

    @property
    def workdir(self) -> str:
        """Where relative paths and new sessions start."""
        return self._container.workdir

    @property
    def run_dir(self) -> str:
        """A directory for the library's own files."""
        return self._container.run_dir

    @property
    def environ(self) -> Mapping[str, str]:
        """What commands get for their environment."""
        return self._container.environ

    # Commands

    def execute(
        self,
        command: str | list[str],
        *,
        timeout: float | None = COMMAND_TIMEOUT_S,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        check: bool = False,
    ) -> CommandResult:
        """Run one command in a process of its own.

        Args:
            command: A string for the shell, or a list of arguments.
            timeout: Seconds it may run; None for no limit.
            cwd: Where it starts; relative to the work directory.
            env: More environment variables.
            check: Whether a code other than 0 raises.

        Returns:
            Its outputs and exit code. Its standard input is empty.

        Raises:
            CommandTimeout: If it outlived its limit; all it started has been killed.
            CommandFailed: If ``check`` and its code is not 0.
            FileError: If the program or ``cwd`` is not there.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
            SpecError: If an argument makes no sense.
        """
        argv = check_command(command)
        limit = check_timeout(timeout)
        with self._using():
            result = run_command(
                self._container,
                argv,
                timeout_s=limit,
                cwd=_check_path(cwd) if cwd is not None else None,
                env=dict(check_env(env or {})),
            )
        if check and result.exit_code != 0:
            output = result.stderr or result.stdout
            raise command_failed(command, result.exit_code, output, self.id)
        return result

    def open(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bool = False,
        merge_stderr: bool = False,
        control: bool = False,
        channel: socket.socket | None = None,
    ) -> Process:
        """Start a live process with byte streams; see ``Container.open``."""
        with self._using():
            return self._container.open(
                argv,
                env=env,
                cwd=cwd,
                stdin=stdin,
                merge_stderr=merge_stderr,
                control=control,
                channel=channel,
            )

    def open_line(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> tuple[Process, Line]:
        """Start a process with a socket that leads here; see ``Container.open_line``."""
        with self._using():
            return self._container.open_line(argv, env=env, cwd=cwd)

    # Sessions

    def create_session(
        self, name: str = "default", *, cwd: str | None = None, env: dict[str, str] | None = None
    ) -> Session:
        """Open a shell that keeps its state from command to command.

        Args:
            name: What ``run_in_session`` calls it by.
            cwd: Where it starts; relative to the work directory.
            env: More environment variables.

        Raises:
            SpecError: If there is a session of that name, or an argument makes no sense.
            FileError: If ``cwd`` is not there.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
        """
        if not isinstance(name, str) or not name or "\0" in name:
            raise SpecError(f"a session's name is a non-empty string, not {name!r}")
        if name in self._sessions:
            raise SpecError(
                f"there is a session {name!r} already; use it, close it, or choose another name"
            )
        with self._using():
            shell = Shell(self._container, _check_path(cwd) if cwd is not None else None, env)
            named = NamedShell(name, shell)
            with self._lock:
                first = self._sessions.setdefault(name, named)
        if first is not named:
            shell.close()
            raise SpecError(f"there is a session {name!r} already; another thread was faster")
        return Session(self, named)

    def run_in_session(
        self,
        name: str,
        command: str,
        *,
        timeout: float | None = COMMAND_TIMEOUT_S,
        check: bool = False,
    ) -> ShellResult:
        """Run a command in a named session; see ``Session.run``."""
        return self._session(name).run(command, timeout=timeout, check=check)

    def close_session(self, name: str) -> None:
        """End a named session.

        Raises:
            SessionClosed: If there is none of that name.
        """
        self._session(name).close()

    def _session(self, name: str) -> Session:
        self._check_open()
        named = self._sessions.get(name)
        if named is None:
            known = ", ".join(map(repr, sorted(self._sessions))) or "none"
            raise SessionClosed(
                f"no session {name!r} (open: {known}); create it with create_session({name!r})",
                sandbox_id=self.id,
            )
        return Session(self, named)

    def _forget_session(self, named: NamedShell) -> None:
        with self._lock:
            if self._sessions.get(named.name) is named:
                del self._sessions[named.name]

    # Files

    def read_file(self, path: str, encoding: str | None = "utf-8") -> Any:
        """Read a file.

        Args:
            path: Absolute, or relative to the work directory.
            encoding: How to decode it; None returns bytes.

        Returns:
            Its text, or its bytes.

        Raises:
            FileError: If it is not there, not a regular file, not readable, or not such text.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
        """
        with self._using(), self._container.open_read(_check_path(path)) as file:
            chunks = []
            try:
                while chunk := file.read(_CHUNK_BYTES):
                    chunks.append(chunk)
            except OSError as error:  # such as a file of /proc whose process has ended
                reason = errno.errorcode.get(error.errno or 0, "EIO")
                raise FileError(f"{path}: {error.strerror}", path=path, reason=reason) from error
        data = b"".join(chunks)
        if encoding is None:
            return data
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            raise FileError(
                f"{path} is not {encoding} text ({error.reason} at byte {error.start}); "
                "read it with encoding=None for bytes",
                path=path,
                reason="not_text",
                sandbox_id=self.id,
            ) from error
        except LookupError as error:
            raise SpecError(f"unknown encoding {encoding!r}") from error

    def write_file(self, path: str, content: str | bytes, *, mode: int | None = None) -> None:
        """Write a file; parents are made, and readers see the old file or the new one whole.

        Args:
            path: Absolute, or relative to the work directory.
            content: Text, written as UTF-8, or bytes.
            mode: Permission bits; None keeps those of a file that is replaced, else 0o644.

        Raises:
            FileError: If it cannot be written there, or the disk limit is reached.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
        """
        if isinstance(content, str):
            content = content.encode("utf-8", "surrogateescape")
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise SpecError(f"a file's content is str or bytes, not {type(content).__name__}")
        with self._using():
            writer = self._container.open_write(_check_path(path), mode=mode)
            try:
                writer.write(bytes(content))
                writer.commit()
            finally:
                writer.abort()

    def commit(self, name: str) -> CommittedImage:
        """Keep its files as an image that sandboxes can be started from.

        It goes on running. What code inside has written may be anything: trust the image as little
        as you trust that code.

        Args:
            name: The image's name, such as "me/tools:1.0".

        Raises:
            SpecError: If it is no name for an image, or the sandbox's files cannot be kept.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
        """
        with self._using():
            return self._container.commit(name)

    # Life

    def is_alive(self) -> bool:
        """Whether it runs. Never waits and never raises."""
        return self.state == "running" and self._container.is_alive()

    @property
    def state(self) -> str:
        """Pending, running, stopped or deleted, as far as we have noticed."""
        return self._history[-1].state

    def status(self) -> Status:
        """Return what it is at the moment, with its history."""
        if self.state == "running" and not self._container.is_alive():
            self._enter("stopped", self._container.why_ended())
        with self._lock:
            return Status(
                sandbox_id=self.id,
                state=self.state,
                backend=self.backend,
                image=self.spec.image,
                sessions=tuple(sorted(self._sessions)),
                capabilities=self.capabilities,
                history=tuple(self._history),
            )

    def stop(self) -> None:
        """End it at once, whatever runs inside. Twice is fine."""
        self._enter("stopped", "stop() was called")
        self._container.kill()
        for named in tuple(self._sessions.values()):
            Session(self, named).close()

    def release(self) -> None:
        """Give it back to its pool, or stop it when it has none. Twice is fine."""
        leave, self._on_leave = self._on_leave, None
        if leave is not None:
            leave(self)
        else:
            self.stop()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __del__(self) -> None:
        # An instance whose constructor raised has no history.
        history = getattr(self, "_history", None)
        if history and history[-1].state == "running":
            self._container.kill()
            for named in self._sessions.values():
                named.shell.close()
            warnings.warn(
                f"{self.id} was never stopped; use `with`, or call stop() or release()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )

    def __repr__(self) -> str:
        return f"<Sandbox {self.id} {self.state} on {self.backend}>"

    def _enter(self, state: str, reason: str) -> None:
        with self._lock:
            if self._history[-1].state != state:
                self._history.append(Transition(state, time.time(), reason))

    def _check_open(self) -> None:
        if self.state != "running":
            last = self._history[-1]
            if last.reason == "stop() was called":
                raise SandboxClosed(
                    "the sandbox was stopped; start or acquire another one", sandbox_id=self.id
                )
            raise SandboxLost(f"the sandbox is gone: {last.reason}", sandbox_id=self.id)

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        """Refuse what comes after the end, note the use, and give errors the sandbox's id."""
        self._check_open()
        self.last_use_s = time.monotonic()
        try:
            yield
        except SandboxLost as error:
            if self.state == "running":
                self._enter("stopped", error.message)
                error.sandbox_id = self.id
                raise
            raise SandboxClosed(
                "the sandbox was stopped while it was in use",
                sandbox_id=self.id,
                output=error.output,
            ) from error
        except RockGymError as error:
            error.sandbox_id = self.id
            raise
        finally:
            self.last_use_s = time.monotonic()


def new_id() -> str:
    """Draw a sandbox id."""
    return f"sandbox-{secrets.token_hex(6)}"


def _check_path(path: str) -> str:
    if not isinstance(path, str) or not path or "\0" in path:
        raise SpecError(f"a path is a non-empty string without NUL, not {path!r}")
    return path
