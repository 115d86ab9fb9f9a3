"""A sandbox as its users see it: commands, named sessions, files, and a life with a history."""

from __future__ import annotations

import os
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from rock_gym.backends import get_backend
from rock_gym.backends.base import Backend, CommittedImage, Container, Statistics
from rock_gym.commands import Commands
from rock_gym.errors import SandboxLost, SpecError
from rock_gym.files import Files
from rock_gym.idle import idle_timer
from rock_gym.life import Life
from rock_gym.session import NamedShell, Session
from rock_gym.shell import CommandResult, ShellResult, check_timeout
from rock_gym.spec import DockerOptions, SandboxSpec
from rock_gym.status import SandboxEvent, Status, Transition
from rock_gym.streaming import Chunk, CommandStream
from rock_gym.terminal import Pty
from rock_gym.transfer import Transfer

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

__all__ = [
    "Chunk",
    "CommandResult",
    "CommandStream",
    "Pty",
    "Sandbox",
    "SandboxEvent",
    "Session",
    "ShellResult",
    "Statistics",
    "Status",
    "Transfer",
    "Transition",
    "new_id",
]


class Sandbox(Commands, Files):
    """An isolated place to run commands and keep files.

    Made by ``Sandbox.start`` or leased from a ``SandboxPool``. All methods may be called from any
    thread. A context manager: leaving it deletes the sandbox, or gives it back to its pool.

    Attributes:
        id: ``sandbox-`` and 12 hexadecimal digits.
        spec: What it was asked to be.
        backend: The name of its backend.
    """

    def __init__(self, backend: Backend, spec: SandboxSpec, container: Container) -> None:
        self.id = container.id
        self.spec = spec
        self.backend = backend.name
        can = backend.capabilities
        self.capabilities = replace(
            can,
            sockets=container.takes_sockets,
            disk=can.disk if container.limits_disk else "none",
        )
        self._container = container
        self._lock = threading.Lock()
        self._restarting = threading.Lock()
        self._sessions: dict[str, NamedShell] = {}
        self._life = Life(container)
        self._life.enter("running", "started")
        self._idle_timeout: float | None = None
        self._on_leave: Callable[[Sandbox], None] | None = None
        self._owner = os.getpid()

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
        idle_timeout: float | None = None,
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
            idle_timeout: Seconds after which it is stopped if nobody uses it; None for never. A
                command that runs is a use, and so is a step of an environment in it.
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
        idle_limit = check_timeout(idle_timeout)
        sandbox = cls.from_spec(chosen, spec, timeout)
        sandbox.set_idle_timeout(idle_limit)
        return sandbox

    @classmethod
    def from_spec(cls, backend: Backend, spec: SandboxSpec, timeout: float = 60.0) -> Sandbox:
        """Start a sandbox from a spec; raises as ``start``."""
        return cls(backend, spec, backend.start(spec, new_id(), _start_limit(timeout)))

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

    @property
    def last_use_s(self) -> float:
        """When it was last used, in terms of ``time.monotonic``."""
        return self._life.last_use_s

    @last_use_s.setter
    def last_use_s(self, value: float) -> None:
        self._life.last_use_s = value

    # Life

    @property
    def state(self) -> str:
        """Pending, running, stopped or deleted, as far as we have noticed."""
        return self._life.state

    def status(self) -> Status:
        """Return what it is at the moment, with its history."""
        if self.state == "running" and not self._container.is_alive():
            self._life.enter("stopped", self._container.why_ended(), lost=True)
        with self._lock:
            return Status(
                sandbox_id=self.id,
                state=self.state,
                backend=self.backend,
                image=self.spec.image,
                sessions=tuple(sorted(self._sessions)),
                capabilities=self.capabilities,
                history=tuple(self._life.history),
                events=self._life.events(),
            )

    def statistics(self) -> Statistics:
        """Return what it uses at the moment, without waiting. Not a use that keeps it from idling.

        Raises:
            SandboxLost: If it died.
            SandboxClosed: If it was stopped.
        """
        self._life.check_running()
        return self._container.statistics()

    def commit(self, name: str) -> CommittedImage:
        """Make an image of its files as they are now; it goes on running.

        Args:
            name: What the image is called, in the place of another one of that name. Others are
                started from it: ``Sandbox.start(name)``.

        Raises:
            SpecError: If it is not a name, or its own image is ``host``, which nothing can be
                based on.
            ImageError: If the image could not be made.
            SandboxLost: If it died.
            SandboxClosed: If it was stopped.
        """
        with self._life.using():
            return self._container.commit(name)

    def set_idle_timeout(self, idle_timeout: float | None) -> None:
        """Have it stopped when nobody has used it for so many seconds; None for never."""
        self._idle_timeout = check_timeout(idle_timeout)
        if self._idle_timeout is None:
            idle_timer.forget(self)
        else:
            idle_timer.watch(self, self._life.last_use_s + self._idle_timeout)

    def _stop_if_idle(self) -> float | None:
        limit = self._idle_timeout
        if limit is None or self.state != "running":
            return None
        following = self._life.stop_if_idle(limit)
        if following is None:
            self._end_processes()
        return following

    def stop(self) -> None:
        """End all that runs in it at once, whatever it is, and keep its files for ``restart``.

        Its sessions end, and what waits for a command gets a SandboxClosed. Twice is fine.
        """
        if self._is_ours() and self._life.enter("stopped", "stop() was called"):
            self._end_processes()

    def _end_processes(self) -> None:
        self._container.stop()
        self._close_sessions()
        idle_timer.forget(self)

    def restart(self, timeout: float = 60.0) -> None:
        """Start it again with the files it has, whether it runs, was stopped, or died.

        Its processes and sessions end; everything that it has written stays.

        Args:
            timeout: Seconds until it must be up.

        Raises:
            SandboxClosed: If it was deleted.
            SandboxLost: If its files are gone.
            StartFailed: If it did not come up; it is then stopped.
            SpecError: If the timeout makes no sense.
        """
        limit = _start_limit(timeout)
        with self._restarting:
            if self.state == "running":
                self.stop()
            if not self._life.enter("pending", "restart() was called"):
                self._life.check_running()
            self._close_sessions()
            try:
                self._container.restart(limit)
            except BaseException as error:
                lost = isinstance(error, SandboxLost)
                self._life.enter("stopped", f"it did not start again: {error}", lost=lost)
                raise
            if not self._life.enter("running", "started again"):
                self._container.stop()  # somebody has called stop() meanwhile
                self._life.check_running()
        self.last_use_s = time.monotonic()
        self.set_idle_timeout(self._idle_timeout)

    def delete(self) -> None:
        """End it and free its files. Nothing can be done with it any more. Twice is fine."""
        self._life.enter("deleted", "delete() was called")
        if not self._is_ours():
            return
        self._container.kill()
        self._close_sessions()
        idle_timer.forget(self)

    def _is_ours(self) -> bool:
        """Whether it was started by this process, and not by one that this was forked from."""
        return self._owner == os.getpid()

    def _retire(self) -> None:
        """Refuse all further use; its pool calls ``delete`` when it gets to it."""
        self._life.enter("deleted", "it was released")

    def release(self) -> None:
        """Give it back to its pool, or delete it when it has none. Twice is fine."""
        leave, self._on_leave = self._on_leave, None
        if leave is not None:
            leave(self)
        else:
            self.delete()

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
        # An instance whose constructor raised has no life.
        life = getattr(self, "_life", None)
        if life is None or life.state == "deleted" or not self._is_ours():
            return
        self._container.kill()
        for named in self._sessions.values():
            named.shell.close()
        if life.state == "running":
            warnings.warn(
                f"{self.id} was never stopped; use `with`, or call delete() or release()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )

    def __repr__(self) -> str:
        return f"<Sandbox {self.id} {self.state} on {self.backend}>"


def new_id() -> str:
    """Draw a sandbox id."""
    return f"sandbox-{secrets.token_hex(6)}"


def _start_limit(timeout: float | None) -> float:
    limit = check_timeout(timeout)
    if limit is None:
        raise SpecError("starting a sandbox needs a limit; pass timeout in seconds")
    return limit
