"""What a sandbox does with commands: one-shot ones, streamed ones, terminals and named sessions."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rock_gym.backends.base import Container
from rock_gym.backends.handles import Line, Process
from rock_gym.errors import SessionClosed, SpecError
from rock_gym.life import Life, Use
from rock_gym.session import COMMAND_TIMEOUT_S, NamedShell, Session
from rock_gym.shell import (
    CommandResult,
    Shell,
    ShellResult,
    check_command,
    check_timeout,
    command_failed,
    command_process,
    run_command,
)
from rock_gym.spec import check_env
from rock_gym.streaming import CommandStream, HandedOn, OnOutput
from rock_gym.terminal import Pty, check_size
from rock_gym.transfer import check_path

if TYPE_CHECKING:
    import socket


class Commands:
    """The verbs of a ``Sandbox`` that run something.

    Attributes:
        id: The sandbox id.
    """

    id: str
    _container: Container
    _life: Life
    _lock: threading.Lock
    _sessions: dict[str, NamedShell]

    def is_alive(self) -> bool:
        """Whether it runs. Never waits and never raises."""
        return self._life.state == "running" and self._container.is_alive()

    def execute(
        self,
        command: str | list[str],
        *,
        timeout: float | None = COMMAND_TIMEOUT_S,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        check: bool = False,
        on_output: OnOutput | None = None,
    ) -> CommandResult:
        """Run one command in a process of its own.

        Args:
            command: A string for the shell, or a list of arguments.
            timeout: Seconds it may run; None for no limit.
            cwd: Where it starts; relative to the work directory.
            env: More environment variables.
            check: Whether a code other than 0 raises.
            on_output: Called with ``"stdout"`` or ``"stderr"`` and each piece of output as it
                comes. What it raises ends the command, and is raised.

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
        start = check_path(cwd) if cwd is not None else None
        more = dict(check_env(env or {}))
        with self._using() as use:
            if on_output is None:
                result = run_command(self._container, argv, timeout_s=limit, cwd=start, env=more)
            else:
                result = self._hand_on(on_output, argv, timeout_s=limit, cwd=start, env=more)
            result = use.explain(result)
        if check and result.exit_code != 0:
            raise command_failed(command, result, self.id)
        return result

    def _hand_on(self, on_output: OnOutput, argv: str | list[str], **options: Any) -> CommandResult:
        """Run a command and give its output to a callback as it comes."""
        outputs = HandedOn("stdout", on_output), HandedOn("stderr", on_output)
        processes: list[Process] = []
        try:
            result = run_command(
                self._container, argv, on_process=processes.append, outputs=outputs, **options
            )
        except BaseException:
            for process in processes:
                process.kill()
            for output in outputs:
                if output.error is not None:
                    raise output.error from None
            raise
        for output in outputs:
            output.finish()
        return result

    def stream(
        self,
        command: str | list[str],
        *,
        timeout: float | None = COMMAND_TIMEOUT_S,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        check: bool = False,
    ) -> CommandStream:
        """Run one command, and iterate over its output while it runs.

        The arguments and errors are those of ``execute``; errors of the command come out of the
        iteration. Its ``result`` is there after the last piece.

        Example:
            >>> with sandbox.stream("make") as lines:  # doctest: +SKIP
            ...     for chunk in lines:
            ...         print(chunk.text, end="")
            >>> lines.result.exit_code  # doctest: +SKIP
            0
        """
        argv = check_command(command)
        start = check_path(cwd) if cwd is not None else None
        more = dict(check_env(env or {}))
        return CommandStream(
            command,
            lambda: command_process(self._container, argv, cwd=start, env=more),
            self._using(),
            check_timeout(timeout),
            check,
        )

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

    def open_pty(
        self,
        argv: Sequence[str] | None = None,
        *,
        rows: int = 24,
        columns: int = 80,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Pty:
        """Start a process on a terminal of the sandbox's own; a shell, unless told otherwise.

        Args:
            argv: The program and its arguments.
            rows: The height of the terminal.
            columns: Its width.
            cwd: Where it starts; relative to the work directory.
            env: More environment variables; ``TERM`` says which terminal it is.

        Raises:
            SpecError: If an argument makes no sense.
            FileError: If the program or ``cwd`` is not there.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
        """
        words = check_command([self._container.shell] if argv is None else list(argv))
        size = check_size(rows, columns)
        start = check_path(cwd) if cwd is not None else None
        more = dict(check_env(env or {}))
        with self._using():
            terminal = self._container.open_terminal(
                words, env=more, cwd=start, rows=size[0], columns=size[1]
            )
        return Pty(self._life, terminal)

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
            shell = Shell(self._container, check_path(cwd) if cwd is not None else None, env)
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
        on_output: OnOutput | None = None,
    ) -> ShellResult:
        """Run a command in a named session; see ``Session.run``."""
        session = self._session(name)
        return session.run(command, timeout=timeout, check=check, on_output=on_output)

    def close_session(self, name: str) -> None:
        """End a named session.

        Raises:
            SessionClosed: If there is none of that name.
        """
        self._session(name).close()

    def _session(self, name: str) -> Session:
        self._life.check_running()
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

    def _close_sessions(self) -> None:
        for named in tuple(self._sessions.values()):
            Session(self, named).close()

    def _using(self) -> Use:
        """Refuse what comes after the end, note the use, and give errors what they need."""
        return self._life.using()
