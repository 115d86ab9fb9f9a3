"""A running container, all of whose life goes over the one stream to its first process."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TypeVar, cast

from rock_gym.backends.base import CommittedImage, LimitHits, Statistics
from rock_gym.backends.docker import protocol, side
from rock_gym.backends.docker.boot import Made, read_greeting
from rock_gym.backends.docker.engine import Engine
from rock_gym.backends.docker.figures import Figures
from rock_gym.backends.docker.files import AgentFile, AgentWriter
from rock_gym.backends.docker.groups import Groups
from rock_gym.backends.docker.images import Images
from rock_gym.backends.docker.limits import Counts, is_full
from rock_gym.backends.docker.line import CREDIT, AgentLine
from rock_gym.backends.docker.link import Link
from rock_gym.backends.docker.process import AgentProcess
from rock_gym.backends.docker.settings import RUN_DIR
from rock_gym.backends.docker.terminal import AgentTerminal
from rock_gym.backends.docker.trees import AgentTreeReader, AgentTreeWriter
from rock_gym.backends.handles import FileWriter, TreeReader, TreeWriter
from rock_gym.errors import (
    BackendUnavailable,
    FileError,
    SandboxClosed,
    SandboxLost,
    SpecError,
    StartFailed,
)

_log = logging.getLogger("rock_gym")

_WHY_S = 2.0
_STOP_S = 1.0
# How long a lease runs on that nobody renews.
LEASE_S = 900.0

_Started = TypeVar("_Started", bound=AgentProcess)


class DockerContainer:
    """A container of the engine. See ``Container``.

    Args:
        engine: Where it runs.
        images: The engine's images.
        made: What it was made as.
        link: The stream to its first process, which has greeted.
        env: Variables that its processes get beyond the image's.
        leftovers: Gets its engine's id if it could not be removed.
    """

    run_dir = RUN_DIR
    script_dir = None

    def __init__(
        self,
        engine: Engine,
        images: Images,
        made: Made,
        link: Link,
        env: Mapping[str, str],
        leftovers: list[str],
    ) -> None:
        assert link.greeting is not None
        self.id = made.boot.sandbox_id
        self.container = made.container
        self.workdir = made.workdir
        self.shell, environ = read_greeting(link.greeting)
        self.environ: Mapping[str, str] = {**environ, **env}
        self._made = made
        self._leftovers = leftovers
        self.takes_sockets = link.takes_sockets
        self.limits_disk = bool(made.bounded) or made.quota
        self.is_leased = made.leased
        self._images = images
        self._engine = engine
        self._lock = threading.Lock()
        self._changing = threading.Lock()
        self._owner = os.getpid()
        self._killed = False
        self._reason_lock = threading.Lock()
        self._begin(link)

    def _begin(self, link: Link) -> None:
        """Take note of a start."""
        self._link = link
        self._groups = Groups(self._engine, self.container)
        self._counts = Counts(link, self._groups if self._made.hides_groups else None)
        self._figures = Figures(
            self._engine,
            self.container,
            link,
            self._groups,
            memory_limit=self._made.memory_bytes,
            disk_limit=self._made.disk_bytes,
            bounded=self._made.bounded,
        )
        self._started_s = time.time()
        self._reason: str | None = None
        link.why_dead = self.why_ended

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
    ) -> AgentProcess:
        """Start a process inside; see ``Container.open``."""
        assert not script, "there is no script_dir"
        if channel is not None and not self.takes_sockets:
            raise BackendUnavailable("no socket can be passed into this container; use open_line")
        flags = (
            stdin * protocol.WITH_INPUT
            + merge_stderr * protocol.MERGED
            + control * protocol.WITH_CONTROL
            + (channel is not None) * protocol.WITH_SOCKET
        )
        process = self._handle(AgentProcess)
        try:
            self._start(process, argv, env, cwd, flags, channel=channel)
        except BaseException:
            process.close()
            raise
        return process

    def open_line(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> tuple[AgentProcess, AgentLine]:
        """Start a process with a socket; see ``Container.open_line``."""
        process = self._handle(AgentProcess)
        line = AgentLine(self._link, process.id + 1)
        try:
            self._start(process, argv, env, cwd, protocol.WITH_CHANNEL)
            self._link.send(protocol.frame(line.id, protocol.CREDIT, CREDIT))
        except BaseException:
            line.close()
            process.close()
            raise
        return process, line

    def _start(
        self,
        process: AgentProcess,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        cwd: str | None,
        flags: int,
        size: bytes = b"",
        channel: socket.socket | None = None,
    ) -> None:
        process.start(
            list(argv),
            {**self.environ, **(env or {})},
            os.path.join(self.workdir, cwd or ""),
            flags,
            (cwd or self.workdir, argv[0]),
            size,
            channel,
        )

    def _check_running(self) -> None:
        if self._link.stopped:
            raise self._link.loss()

    def _handle(self, kind: type[_Started]) -> _Started:
        self._check_running()
        try:
            return kind(self._link)
        except BlockingIOError as error:
            raise FileError(str(error), path=self.workdir, reason="EMFILE") from None

    def open_read(self, path: str) -> IO[bytes]:
        """Open a regular file; see ``Container.open_read``."""
        self._check_running()
        file = AgentFile(self._link, path, os.path.join(self.workdir, path))
        return cast("IO[bytes]", file)

    def open_write(self, path: str, *, mode: int | None = None) -> FileWriter:
        """Begin a file; see ``Container.open_write``."""
        self._check_running()
        return AgentWriter(self._link, path, os.path.join(self.workdir, path), mode)

    def read_tree(self, path: str) -> TreeReader:
        """Begin to read a tree; see ``Container.read_tree``."""
        self._check_running()
        return AgentTreeReader(self._link, path, os.path.join(self.workdir, path))

    def write_tree(self, path: str) -> TreeWriter:
        """Begin to write a tree; see ``Container.write_tree``."""
        self._check_running()
        return AgentTreeWriter(self._link, path, os.path.join(self.workdir, path))

    def open_terminal(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        rows: int = 24,
        columns: int = 80,
    ) -> AgentTerminal:
        """Start a process on a terminal; see ``Container.open_terminal``."""
        terminal = self._handle(AgentTerminal)
        size = protocol.SIZE.pack(rows, columns)
        try:
            self._start(terminal, argv, env, cwd, protocol.WITH_TERMINAL, size)
        except BaseException:
            terminal.close()
            raise
        return terminal

    def note_limits(self) -> Callable[[], LimitHits]:
        """Note how often it has run into limits; see ``Container.note_limits``."""
        return self._counts.note()

    def limit_hits(self) -> LimitHits:
        """Tell how often it has run into limits; see ``Container.limit_hits``."""
        return self._counts.now()

    def limits_reached(self) -> frozenset[str]:
        """Tell which limits it is at; see ``Container.limits_reached``."""
        places = self._made.bounded or (self.workdir,)
        full = is_full(self._link, places) or (self._made.quota and self._figures.is_full())
        return frozenset({"disk"}) if full else frozenset()

    def commit(self, name: str) -> CommittedImage:
        """Keep its files as an image; see ``Container.commit``."""
        if self._made.bounded:
            raise SpecError(
                "the files of this sandbox are in memory alone, because of profile='strict' or "
                "disk=: there is nothing to commit; start it without them"
            )
        if self._killed:
            raise self._link.loss()
        return self._images.commit(self.container, name, self._made.image_config)

    def statistics(self) -> Statistics:
        """Tell what it uses at the moment; see ``Container.statistics``."""
        found: Statistics | None = None
        if self.is_alive():
            # It may end, or be stopped, while it is looked at.
            with contextlib.suppress(OSError):
                found = self._figures.statistics()
        if found is None or not self.is_alive():
            raise self._link.loss()
        return found

    # The end

    def is_alive(self) -> bool:
        """Whether it still runs; see ``Container.is_alive``."""
        return not self._killed and not self._link.stopped and self._link.is_open()

    def why_ended(self) -> str:
        """Say why it ended, which the engine knows for a while; see ``Container.why_ended``."""
        with self._reason_lock:
            if self._reason is None:
                self._reason = self._engine.why_ended(self.container, self._started_s, _WHY_S)
            return self._reason

    def kill(self) -> None:
        """End it, and return when the engine has removed it; see ``Container.kill``."""
        if self._owner != os.getpid():
            return  # in a forked child: it is the parent's
        with self._lock:
            if self._killed:
                return
            self._killed = True
        self._discard(self._link)

    def _discard(self, link: Link) -> None:
        # Hung up first: a stream that nobody reads holds the engine up for 20 s.
        link.close()
        problem = self._engine.remove(self.container)
        if problem is not None:
            _log.warning("%s may still be there: %s; it is tried again later", self.id, problem)
            self._leftovers.append(self.container)
        link.free()

    def stop(self) -> None:
        """End all in it, and keep its files; see ``Container.stop``."""
        with self._lock:
            link = self._link
            if self._killed or link.stopped:
                return
            link.stopped = True
        with self._changing:
            try:
                self._end(link)
            except (BackendUnavailable, StartFailed) as error:
                _log.warning("%s may still run: %s", self.id, error)

    def _end(self, link: Link) -> bool:
        """End what runs over a link, unless it has been replaced. Returns whether files are left.

        Where files are in memory alone, the first process has to stay, as they would end with it.
        """
        if link is not self._link:
            return True
        if self._made.bounded and link.is_open():
            with contextlib.suppress(SandboxLost, SandboxClosed):
                if link.start_over(self._made.boot.mark, _STOP_S):
                    return True
        link.close()
        link.free()
        return self._engine.kill(self.container) and not self._made.bounded

    def restart(self, timeout_s: float = 60.0) -> None:
        """Have it take commands again; see ``Container.restart``."""
        deadline = time.monotonic() + timeout_s
        with self._changing:
            with self._lock:
                link = self._link
                link.stopped = True
            try:
                self._start_again(link, deadline)
            except (BackendUnavailable, StartFailed) as error:
                self._check_not_killed()
                raise StartFailed(
                    f"the sandbox did not start again: {error.message}", sandbox_id=self.id
                ) from error

    def _start_again(self, link: Link, deadline: float) -> None:
        self._check_not_killed()
        if not self._end(link):
            raise SandboxLost(
                f"the sandbox's files are gone with its container: {self.why_ended()}",
                sandbox_id=self.id,
            )
        if link.is_open():
            self._begin(link)
            link.stopped = False
            return
        boot = self._made.boot
        with side.Door(boot.directory) if boot.directory else contextlib.nullcontext() as door:
            started = boot.bring_up(self._engine, self.container, deadline, door)
        with self._lock:
            if not self._killed:
                self._begin(started)
        if started is not self._link:
            self._discard(started)
        self._check_not_killed()
        if self._made.leased:
            self.renew(LEASE_S)

    def _check_not_killed(self) -> None:
        if self._killed:
            raise SandboxClosed("the sandbox was deleted", sandbox_id=self.id)

    # Leases

    def renew(self, seconds: float) -> None:
        """Have a lease end so many seconds from now, unless it is renewed again.

        Raises:
            SpecError: If it is no lease.
            SandboxLost: If the container has died.
        """
        if not self._made.leased:
            raise SpecError("only a sandbox with lifetime='lease' can be renewed")
        words = protocol.WORD.pack(max(1, round(seconds)))
        self._link.send(protocol.frame(0, protocol.RENEW, words))

    def detach(self) -> None:
        """Let go of a lease, which runs on to its deadline and can be adopted. Twice is fine."""
        with self._lock:
            if self._killed:
                return
            self._killed = True
        # What was sent last is lost if the engine has not passed it on when we hang up.
        self._counts.settle()
        self._link.close()
        self._link.free()

    def lost(self) -> SandboxLost | SandboxClosed:
        """Return the error for its loss."""
        return self._link.loss()
