"""A running container, all of whose life goes over the one stream to its first process."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, cast

from rock_gym.backends.base import FileWriter
from rock_gym.backends.docker import protocol
from rock_gym.backends.docker.engine import Engine
from rock_gym.backends.docker.files import AgentFile, AgentWriter
from rock_gym.backends.docker.link import Link
from rock_gym.backends.docker.process import AgentProcess
from rock_gym.backends.docker.settings import RUN_DIR
from rock_gym.errors import BackendUnavailable, FileError, SandboxClosed, SandboxLost

_log = logging.getLogger("rock_gym")

_GREETING_WORDS = 16
_SHELLS = ("/bin/sh", "/bin/bash", "/usr/bin/bash")
# What the shell that makes way for the agent adds.
_NOT_OURS = ("PWD", "OLDPWD", "SHLVL", "_")
_WHY_S = 2.0


class DockerContainer:
    """A container of the engine. See ``Container``.

    Args:
        engine: Where it runs.
        container: The engine's id of it.
        sandbox_id: Ours.
        workdir: Where work is done.
        link: The stream to its first process, which has greeted.
    """

    run_dir = RUN_DIR
    script_dir = None

    def __init__(
        self, engine: Engine, container: str, sandbox_id: str, workdir: str, link: Link
    ) -> None:
        assert link.greeting is not None
        self.id = sandbox_id
        self.container = container
        self.workdir = workdir
        self.shell, self.environ = _read_greeting(link.greeting)
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
        if channel is not None:
            raise BackendUnavailable("no socket can be passed into a container of this kind")
        flags = (
            stdin * protocol.WITH_INPUT
            + merge_stderr * protocol.MERGED
            + control * protocol.WITH_CONTROL
        )
        process = self._handle()
        try:
            process.start(
                list(argv),
                {**self.environ, **(env or {})},
                os.path.join(self.workdir, cwd or ""),
                flags,
                (cwd or self.workdir, argv[0]),
            )
        except BaseException:
            process.close()
            raise
        return process

    def _handle(self) -> AgentProcess:
        try:
            return AgentProcess(self._link)
        except BlockingIOError as error:
            raise FileError(str(error), path=self.workdir, reason="EMFILE") from None

    def open_read(self, path: str) -> IO[bytes]:
        """Open a regular file; see ``Container.open_read``."""
        file = AgentFile(self._link, path, os.path.join(self.workdir, path))
        return cast("IO[bytes]", file)

    def open_write(self, path: str, *, mode: int | None = None) -> FileWriter:
        """Begin a file; see ``Container.open_write``."""
        return AgentWriter(self._link, path, os.path.join(self.workdir, path), mode)

    # The end

    def is_alive(self) -> bool:
        """Whether it still runs; see ``Container.is_alive``."""
        return not self._killed and self._link.is_open()

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
