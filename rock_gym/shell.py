"""One framed command channel over a shell process, the same for bash and for plain sh.

A command and its end marker go to the shell in one write. The marker is a number drawn afresh for
each command, which comes back with the exit code over a stream of its own, so that no output can
be taken for it. What the command prints is never parsed.
"""

from __future__ import annotations

import binascii
import os
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from rock_gym.backends.base import Container
from rock_gym.backends.handles import CONTROL, CONTROL_FD, SCRIPT_FD, Process
from rock_gym.errors import CommandFailed, CommandTimeout, SandboxLost, SessionClosed, SpecError
from rock_gym.output import Output

# How long a command gets to end after SIGINT, and then its processes after SIGKILL.
_INTERRUPT_S = 0.3
_KILL_S = 2.0
_KILL_ROUND_S = 0.02
_NONCE_BYTES = 6
_LONGEST_MARKER_BYTES = 64

# Bash reads a pipe byte by byte, so what is sent with every command is worth being short. The one
# function sets the code that `$?` should have, which cannot be done otherwise without a fork; the
# other writes the marker. The backslashes pass by aliases, `command` passes by functions.
_PRELUDE = (
    f'__rg_code() {{ return $1; }}\n__rg() {{ \\command printf "%s\\n" "$1 $?" >&{CONTROL_FD}; }}\n'
)


@dataclass(frozen=True, slots=True)
class ShellResult:
    """How a command went.

    Attributes:
        output: What it printed to its standard output and error, in order.
        exit_code: Its exit code, 128 + n after signal n.
        truncated: Whether the middle of the output was left out.
        cause: The limit that was run into while it ran, if it failed and there was one: ``"oom"``,
            ``"pids"`` or ``"disk"``.
    """

    output: str
    exit_code: int
    truncated: bool
    cause: str | None = None


class Shell:
    """A shell that takes one command at a time; the caller serialises.

    Args:
        container: Where it runs.
        cwd: Where it starts.
        env: More environment variables.
    """

    def __init__(
        self, container: Container, cwd: str | None = None, env: dict[str, str] | None = None
    ) -> None:
        self._container = container
        self._cwd = cwd
        self._env = env
        self._code = 0
        self._script = container.script_dir is not None
        self._process = self._start()

    def _start(self, cwd: str | None = None) -> Process:
        shell = self._container.shell
        argv = [shell, "--noprofile", "--norc"] if shell.endswith("bash") else [shell]
        directory = os.path.join(self._container.workdir, cwd or self._cwd or "")
        prelude = _PRELUDE
        if self._script:
            argv.append(os.path.basename(shell))
            prelude += f"exec {SCRIPT_FD}<&-; cd -P -- {_quote(directory)}; unset OLDPWD\n"
        process = self._container.open(
            argv,
            env=self._env,
            cwd=directory,
            stdin=True,
            script=self._script,
            merge_stderr=True,
            control=True,
        )
        process.send(prelude.encode("utf-8", "surrogateescape"))
        self._code = 0
        return process

    @property
    def exit_code(self) -> int | None:
        """The shell's own exit code once it has ended."""
        return self._process.exit_code

    def run(
        self,
        command: str,
        timeout_s: float | None,
        waited_s: float = 0.0,
        output: Output | None = None,
    ) -> ShellResult:
        """Run a command and wait for it.

        Args:
            command: The command.
            timeout_s: How long it may take; None for no limit.
            waited_s: How much of that has gone by already.
            output: What collects its output; a TimeoutError out of it ends the command.

        Raises:
            CommandTimeout: If it outlived its limit; it has been killed.
            SandboxLost: If the sandbox died.
            SessionClosed: If the shell had ended already.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s - waited_s
        output = output or Output()
        nonce = _draw_nonce()
        before = self._process.children()
        try:
            self._process.send(self._frame(command, nonce), timeout_s)
            done = self._read(nonce, output, deadline)
        except BrokenPipeError:
            raise SessionClosed("the session's shell has ended; create a new session") from None
        except TimeoutError:
            done = False
        if not done:
            restarted = self._rescue(nonce, output, before)
            raise CommandTimeout(
                f"the command ran longer than {timeout_s:g} s and was killed"
                + ("; its session was started anew and has lost its state" if restarted else "")
                + "; pass a larger timeout, or None for no limit",
                output=output.text(),
                session_restarted=restarted,
            )
        text = output.text()
        if nonce in text:
            # Under `set -x` the shell also tells of the command that writes the marker.
            text = "".join(line for line in text.splitlines(keepends=True) if nonce not in line)
        return ShellResult(text, self._code, output.truncated)

    def _frame(self, command: str, nonce: str) -> bytes:
        # `command` keeps a syntax error in eval from ending a plain sh. The redirection keeps `cat`
        # and its like from swallowing what follows, where that comes over the standard input. The
        # marker stands in no braces: after an open quote in eval, bash would take them for a
        # syntax error.
        empty = "" if self._script else " </dev/null"
        text = f"\\command eval {_quote(command)}{empty}\n\\__rg {nonce}\n"
        if self._code:
            # So that `echo $?` tells of the command before. Not under `set -e`, which it would end.
            text = f"case $- in *e*) ;; *) __rg_code {self._code};; esac\n" + text
        return text.encode("utf-8", "surrogateescape")

    def _read(self, nonce: str, output: Output, deadline: float | None) -> bool:
        """Collect output until the marker comes or the shell ends; False when time runs out."""
        marker = b""
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            chunks = self._process.receive(left)
            for stream, data in chunks:
                if stream == CONTROL:
                    marker += data
                else:
                    output.add(data)
            code = _find_code(marker, nonce)
            # Programs can write there too: only what may be the beginning of a marker stays.
            marker = marker[-_LONGEST_MARKER_BYTES:]
            if code is None and self._process.exit_code is not None:
                code = self._process.exit_code
            if code is not None:
                self._code = code
                return True

    def _rescue(self, nonce: str, output: Output, before: frozenset[int]) -> bool:
        """Free the shell from a command that ran too long. Returns whether it was replaced."""
        process = self._process
        discarded = Output(kept_bytes=0)
        if process.kill_descendants(signal.SIGINT, spare=before) and self._read(
            nonce, discarded, time.monotonic() + _INTERRUPT_S
        ):
            # Its end may have left children that ignore the signal.
            process.kill_descendants(signal.SIGKILL, spare=before)
            return self._settle()
        deadline = time.monotonic() + _KILL_S
        while time.monotonic() < deadline:
            killed = process.kill_descendants(signal.SIGKILL, spare=before)
            if self._read(nonce, discarded, time.monotonic() + _KILL_ROUND_S):
                process.kill_descendants(signal.SIGKILL, spare=before)
                return self._settle()
            if not killed:
                break  # it is the shell itself that runs on
        self._replace()
        return True

    def _settle(self) -> bool:
        """Let the shell say now which jobs were killed, not before the next command's output."""
        code, nonce = self._code, _draw_nonce()
        if self._process.exit_code is None:
            self._process.send(self._frame(":", nonce), _KILL_S)
            done = self._read(nonce, Output(kept_bytes=0), time.monotonic() + _KILL_S)
            if done and self._process.exit_code is None:
                self._code = code
                return False
        self._replace()
        return True

    def _replace(self) -> None:
        old, self._process = self._process, self._start()
        old.kill()
        old.close()

    def interrupt(self) -> None:
        """Send SIGINT to what the shell runs. May be called from another thread."""
        self._process.kill_descendants(signal.SIGINT)

    def kill(self) -> None:
        """Kill the shell and all it has started. May be called from another thread."""
        self._process.kill()

    def close(self) -> None:
        """End the shell and all it has started. Twice is fine."""
        self._process.kill()
        self._process.close()


def _draw_nonce() -> str:
    return binascii.b2a_base64(os.urandom(_NONCE_BYTES), newline=False).decode("ascii")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _find_code(marker: bytes, nonce: str) -> int | None:
    """Find the exit code of one command in what came over the control stream."""
    _, found, rest = marker.partition(nonce.encode() + b" ")
    code, ended, _ = rest.partition(b"\n")
    return int(code) if found and ended and code.isdigit() else None


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a one-shot command went.

    Attributes:
        stdout: What it printed to its standard output.
        stderr: What it printed to its standard error.
        exit_code: Its exit code, 128 + n after signal n.
        truncated: Whether the middle of either was left out.
        cause: The limit that was run into while it ran, if it failed and there was one: ``"oom"``,
            ``"pids"`` or ``"disk"``.
    """

    stdout: str
    stderr: str
    exit_code: int
    truncated: bool
    cause: str | None = None


# The kernel refuses single arguments of 128 KiB and more.
_LONGEST_ARGUMENT = 120_000


def run_command(
    container: Container,
    command: str | list[str],
    *,
    timeout_s: float | None,
    cwd: str | None,
    env: dict[str, str] | None,
    on_process: Callable[[Process], None] = lambda process: None,
    outputs: tuple[Output, Output] | None = None,
) -> CommandResult:
    """Run one command in a process of its own.

    It ends when its main process does; what it leaves in the background lives on.

    Args:
        container: Where it runs.
        command: An argument list, or a string for the shell.
        timeout_s: How long it may run; None for no limit.
        cwd: Where it starts.
        env: More environment variables.
        on_process: Told of the process, so that others can end it.
        outputs: What collects its standard output and its standard error.

    Raises:
        CommandTimeout: If it outlived its limit; all it started has been killed.
        FileError: If the program or ``cwd`` is not there.
        SandboxLost: If the sandbox died.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    process = command_process(container, command, cwd=cwd, env=env)
    try:
        on_process(process)
        out, err = outputs or (Output(), Output())
        kept = {1: out, 2: err}
        while process.exit_code is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                process.kill()
                raise CommandTimeout(
                    f"the command ran longer than {timeout_s:g} s and was killed; "
                    "pass a larger timeout, or None for no limit",
                    output=out.text() + err.text(),
                )
            for stream, data in process.receive(left):
                kept[stream].add(data)
        return CommandResult(
            stdout=out.text(),
            stderr=err.text(),
            exit_code=process.exit_code,
            truncated=out.truncated or err.truncated,
        )
    except SandboxLost as error:
        error.output = out.text() + err.text()
        raise
    finally:
        process.close()


def command_process(
    container: Container,
    command: str | list[str],
    *,
    cwd: str | None,
    env: dict[str, str] | None,
) -> Process:
    """Start the process of one command; see ``run_command``."""
    return container.open(_argv(container, command), env=env, cwd=cwd)


def _argv(container: Container, command: str | list[str]) -> list[str]:
    if not isinstance(command, str):
        return command
    if len(command.encode("utf-8", "surrogateescape")) < _LONGEST_ARGUMENT:
        return [container.shell, "-c", command]
    script = f"{container.run_dir}/{secrets.token_hex(8)}"
    writer = container.open_write(script, mode=0o600)
    try:
        writer.write(command.encode("utf-8", "surrogateescape"))
        writer.commit()
    finally:
        writer.abort()
    # Read in whole before it is removed: the shell opens its script once.
    return [container.shell, "-c", '. "$1"; c=$?; rm -f "$1"; exit $c', "sh", script]


def check_command(command: str | list[str]) -> str | list[str]:
    """Return a command if it is one that can be run.

    Raises:
        SpecError: If it is empty, of another type, or holds a NUL.
    """
    if isinstance(command, str) and command and "\0" not in command:
        return command
    words = [command] if isinstance(command, str) else command
    if not isinstance(words, (list, tuple)) or not words:
        raise SpecError(f"a command is a string or a list of strings, not {command!r}")
    for word in words:
        if not isinstance(word, (str, os.PathLike)):
            raise SpecError(f"a command is a string or a list of strings, not {command!r}")
        if "\0" in os.fspath(word):
            raise SpecError("a command cannot hold a NUL character; write it to a file instead")
    return command if isinstance(command, str) else [os.fspath(word) for word in words]


def check_timeout(timeout: float | None) -> float | None:
    """Return a timeout in seconds if it is one.

    Raises:
        SpecError: If it is negative or not a number.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise SpecError(
            f"a timeout is a number of seconds from 0, or None for no limit, not {timeout!r}"
        )
    # Beyond a year poll(2) could not take it any more.
    return min(float(timeout), 3.15e7)


def command_failed(
    command: object, result: CommandResult | ShellResult, sandbox_id: str
) -> CommandFailed:
    """Return the error for a command whose code is not 0."""
    output = result.output if isinstance(result, ShellResult) else result.stderr or result.stdout
    why = f" (it ran into a limit: {result.cause})" if result.cause else ""
    error = CommandFailed(
        f"the command ended with code {result.exit_code}{why}: {command!r:.200}\n{output[-2000:]}",
        exit_code=result.exit_code,
        sandbox_id=sandbox_id,
        output=output,
    )
    error.cause = result.cause
    return error
