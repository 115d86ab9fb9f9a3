"""Named shells in a sandbox that keep their state from command to command."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from rock_gym.errors import SessionClosed, SpecError
from rock_gym.life import Use
from rock_gym.shell import Shell, ShellResult, check_command, check_timeout, command_failed
from rock_gym.streaming import HandedOn, OnOutput

COMMAND_TIMEOUT_S = 600.0


class _Sandbox(Protocol):
    """What a session asks of its sandbox."""

    id: str

    def is_alive(self) -> bool: ...
    def _using(self) -> Use: ...
    def _forget_session(self, named: NamedShell) -> None: ...


@dataclass(eq=False)
class NamedShell:
    """What a sandbox holds of a session.

    It does not refer back: a forgotten sandbox is freed at once, not by the cycle collector, which
    knows no order.
    """

    name: str
    shell: Shell
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: bool = False
    closing: bool = False


class Session:
    """A named shell in a sandbox that keeps its directory, variables, functions and jobs.

    Made by ``Sandbox.create_session``. Calls of several threads queue.
    """

    def __init__(self, sandbox: _Sandbox, shell: NamedShell) -> None:
        self.name = shell.name
        self._sandbox = sandbox
        self._shell = shell

    def run(
        self,
        command: str,
        *,
        timeout: float | None = COMMAND_TIMEOUT_S,
        check: bool = False,
        on_output: OnOutput | None = None,
    ) -> ShellResult:
        """Run a command in the session's shell.

        Args:
            command: Any text that the shell takes, of one line or many.
            timeout: Seconds it may run; None for no limit. Waiting for the session counts.
            check: Whether a code other than 0 raises.
            on_output: Called with ``"stdout"`` and each piece of output as it comes. What it
                raises ends the command, and is raised.

        Returns:
            Its output, standard error included, and exit code. A command that ends the shell,
            such as ``exit 7``, ends the session and gives that code.

        Raises:
            CommandTimeout: If it outlived its limit. It and all it started have been killed, and
                the session can be used again at once.
            CommandFailed: If ``check`` and its code is not 0.
            SessionClosed: If the session has ended.
            SandboxLost: If the sandbox died.
            SandboxClosed: If the sandbox was stopped.
            SpecError: If the command is not text without NUL, or the timeout is negative.
        """
        if not isinstance(command, str):
            raise SpecError(f"a session's command is a string, not {command!r}")
        check_command(command)
        limit = check_timeout(timeout)
        started = time.monotonic()
        handed_on = HandedOn("stdout", on_output) if on_output is not None else None
        with self._sandbox._using() as use, self._shell.lock:
            if self._shell.closed:
                raise SessionClosed(
                    f"the session {self.name!r} has ended; create a new one",
                    sandbox_id=self._sandbox.id,
                )
            waited_s = time.monotonic() - started
            try:
                result = self._shell.shell.run(command, limit, waited_s, handed_on)
            finally:
                if handed_on is not None:
                    handed_on.finish()
            result = use.explain(result)
            if self._shell.shell.exit_code is not None:
                self._end()
        if self._shell.closing:
            raise SessionClosed(
                f"the session {self.name!r} was closed while it ran a command",
                sandbox_id=self._sandbox.id,
                output=result.output,
            )
        if check and result.exit_code != 0:
            raise command_failed(command, result, self._sandbox.id)
        return result

    def interrupt(self) -> None:
        """Send SIGINT to whatever the session runs at the moment; from any thread."""
        if not self._shell.closed:
            self._shell.shell.interrupt()

    def is_alive(self) -> bool:
        """Whether it takes commands."""
        return not self._shell.closed and self._sandbox.is_alive()

    def close(self) -> None:
        """End the session and all that runs in it. Twice is fine."""
        self._shell.closing = True
        # Outside the lock: a command that another thread runs here ends by it.
        self._shell.shell.kill()
        with self._shell.lock:
            if not self._shell.closed:
                self._end()

    def _end(self) -> None:
        self._shell.closed = True
        self._shell.shell.close()
        self._sandbox._forget_session(self._shell)
