"""A running container, all of whose life goes over the one stream to its first process."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, TypeVar, cast

from rock_gym.backends.base import (
    CommittedImage,
    FileWriter,
    LimitHits,
    Statistics,
    TreeReader,
    TreeWriter,
)
from rock_gym.backends.docker import protocol
from rock_gym.backends.docker.engine import Engine
from rock_gym.backends.docker.files import AgentFile, AgentWriter, space_of
from rock_gym.backends.docker.images import Images
from rock_gym.backends.docker.line import CREDIT, AgentLine
from rock_gym.backends.docker.link import Link
from rock_gym.backends.docker.process import AgentProcess
from rock_gym.backends.docker.settings import RUN_DIR
from rock_gym.backends.docker.terminal import AgentTerminal
from rock_gym.errors import (
    BackendUnavailable,
    FileError,
    SandboxClosed,
    SandboxLost,
    SpecError,
    StartFailed,
)

_log = logging.getLogger("rock_gym")

_GREETING_WORDS = 16
_SHELLS = ("/bin/sh", "/bin/bash", "/usr/bin/bash")
# What the shell that makes way for the agent adds.
_NOT_OURS = ("PWD", "OLDPWD", "SHLVL", "_")
_WHY_S = 2.0
_STOP_S = 1.5
_Started = TypeVar("_Started", bound=AgentProcess)


@dataclass(frozen=True, slots=True)
class Made:
    """What a container was made as.

    Attributes:
        container: The engine's id of it.
        sandbox_id: Ours.
        workdir: Where work is done.
        image_config: The configuration of its image.
        in_memory: Whether its files are in memory alone, as its root is read-only.
        memory_bytes: Its limit, if it has one.
        disk_bytes: Its limit, if it has one.
        leased: Whether it is a lease, and does not end with its owner.
        mark: What its first process says when it starts over.
    """

    container: str
    sandbox_id: str
    workdir: str
    image_config: dict[str, Any]
    in_memory: bool
    memory_bytes: int | None
    disk_bytes: int | None
    leased: bool
    mark: bytes


class DockerContainer:
    """A container of the engine. See ``Container``.

    Args:
        engine: Where it runs.
        images: The engine's images.
        made: What it was made as.
        link: The stream to its first process, which has greeted.
        env: Variables that its processes get beyond the image's.
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
    ) -> None:
        assert link.greeting is not None
        self.id = made.sandbox_id
        self.container = made.container
        self.workdir = made.workdir
        self.shell, environ = _read_greeting(link.greeting)
        self.environ: Mapping[str, str] = {**environ, **env}
        self._made = made
        self.takes_sockets = link.takes_sockets
        self.is_leased = made.leased
        self._images = images
        self._engine = engine
        self._link = link
        self._started_s = time.time()
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._killed = False
        self._reason: str | None = None
        self._reason_lock = threading.Lock()
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
        """Not to be had yet; see ``Container.read_tree``."""
        raise self._not_yet("folders cannot be downloaded; use read_file")

    def write_tree(self, path: str) -> TreeWriter:
        """Not to be had yet; see ``Container.write_tree``."""
        raise self._not_yet("folders cannot be uploaded; use write_file")

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

    def _not_yet(self, what: str) -> BackendUnavailable:
        return BackendUnavailable(
            f"in containers {what}, or backend='bubblewrap'", sandbox_id=self.id
        )

    def limit_hits(self) -> LimitHits:
        """Not counted here; see ``Container.limit_hits``."""
        return LimitHits()

    def limits_reached(self) -> frozenset[str]:
        """Not looked at here; see ``Container.limits_reached``."""
        return frozenset()

    def commit(self, name: str) -> CommittedImage:
        """Keep its files as an image; see ``Container.commit``."""
        if self._made.in_memory:
            raise SpecError(
                "the files of this sandbox are in memory alone, because of profile='strict' or "
                "disk=: there is nothing to commit; start it without them"
            )
        if self._killed:
            raise self._link.loss()
        return self._images.commit(self.container, name, self._made.image_config)

    def statistics(self) -> Statistics:
        """Tell what it uses at the moment, by the engine's figures."""
        if not self.is_alive():
            raise self._link.loss()
        figures = self._engine.statistics(self.container)
        memory, networks = figures.get("memory_stats", {}), figures.get("networks") or {}
        # Files that the kernel keeps in memory only while nobody needs it are not counted.
        idle = memory.get("stats", {})
        unneeded = idle.get("total_inactive_file", idle.get("inactive_file", 0))
        used = memory.get("usage")
        return Statistics(
            cpu_s=figures.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0) / 1e9,
            memory_bytes=None if used is None else max(0, used - unneeded),
            memory_limit_bytes=self._made.memory_bytes,
            disk_bytes=self._disk_bytes(),
            disk_limit_bytes=self._made.disk_bytes,
            processes=figures.get("pids_stats", {}).get("current"),
            network_rx_bytes=sum(each["rx_bytes"] for each in networks.values()),
            network_tx_bytes=sum(each["tx_bytes"] for each in networks.values()),
        )

    def _disk_bytes(self) -> int | None:
        """Return what lies in the work directory, where that has a file system of its own."""
        if not self._made.in_memory:
            return None  # the engine would have to add up all files
        total, free = space_of(self._link, self.workdir)
        return total - free

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
        # Hung up first: a stream that nobody reads holds the engine up for 20 s.
        self._link.close()
        problem = self._engine.remove(self.container)
        if problem is not None:
            _log.warning("%s may still be there: %s; see rock-gym reap", self.id, problem)
        self._link.free()

    def stop(self) -> None:
        """End all in it but its first process, and keep its files; see ``Container.stop``."""
        with self._lock:
            if self._killed or self._link.stopped:
                return
            self._link.stopped = True
        with contextlib.suppress(SandboxLost, SandboxClosed):
            self._link.start_over(self._made.mark, _STOP_S)

    def restart(self, timeout_s: float = 60.0) -> None:
        """Have it take commands again; see ``Container.restart``."""
        self.stop()
        if self._killed:
            raise SandboxClosed("the sandbox was deleted", sandbox_id=self.id)
        if not self._link.is_open():
            raise SandboxLost(
                f"the sandbox's files are gone with its container: {self.why_ended()}",
                sandbox_id=self.id,
            )
        if self._link.await_greeting(timeout_s) is None:
            raise StartFailed("the sandbox did not come up again in time", sandbox_id=self.id)
        self._link.stopped = False

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
        self._link.close()
        self._link.free()

    def lost(self) -> SandboxLost | SandboxClosed:
        """Return the error for its loss."""
        return self._link.loss()


def _read_greeting(greeting: bytes) -> tuple[str, dict[str, str]]:
    shell = protocol.WORD.unpack_from(greeting, 12)[0]
    environ = {}
    for item in greeting[_GREETING_WORDS:].split(b"\0"):
        name, sign, value = os.fsdecode(item).partition("=")
        if sign and name not in _NOT_OURS:
            environ[name] = value
    return _SHELLS[shell if shell < len(_SHELLS) else 0], environ
