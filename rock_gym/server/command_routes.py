"""The sandbox API: commands, and sessions that keep their state from command to command."""

from __future__ import annotations

import time
from typing import Any

from starlette.routing import Route

from rock_gym.errors import CommandFailed, RockGymError, SpecError
from rock_gym.sandbox import Sandbox
from rock_gym.server import messages as m
from rock_gym.server import results as r
from rock_gym.server.entries import SandboxEntry
from rock_gym.server.envelope import Call, JsonRoute, rock_result
from rock_gym.server.failures import Failure, Refused
from rock_gym.server.gem_entry import GemEntry
from rock_gym.server.sandbox_routes import PREFIX, usable_of
from rock_gym.server.state import ServerState


def routes(state: ServerState) -> list[Route]:
    """Return the routes of commands and sessions."""
    commands = _Commands(state)
    return [
        JsonRoute(
            f"{PREFIX}/execute",
            commands.execute,
            request=m.ExecuteRequest,
            result=r.CommandResult,
            title="execute command",
            shape=_of_command,
        ),
        JsonRoute(
            f"{PREFIX}/create_session",
            commands.create_session,
            request=m.CreateSessionRequest,
            result=r.SessionCreated,
            title="create session",
        ),
        JsonRoute(
            f"{PREFIX}/run_in_session",
            commands.run_in_session,
            request=m.RunRequest,
            result=r.Observation,
            title="run in session",
            failure_message=None,
            shape=_of_session,
        ),
        JsonRoute(
            f"{PREFIX}/close_session",
            commands.close_session,
            request=m.CloseSessionRequest,
            result=r.SessionClosed,
            title="close session",
        ),
    ]


def _of_command(failure: Failure) -> dict[str, Any]:
    code = failure.more.get("exit_code", -1)
    return {
        **rock_result(failure),
        "stdout": failure.more.get("output", ""),
        "stderr": "",
        "exit_code": code,
    }


def _of_session(failure: Failure) -> dict[str, Any]:
    return {
        **rock_result(failure),
        "session_type": "bash",
        "output": failure.more.get("output", ""),
        "expect_string": "",
    }


class _Commands:
    """Handlers that run something."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def _limit(self, timeout: float | None) -> float:
        most = self._state.settings.command_limit_s
        return most if timeout is None else min(timeout, most)

    async def execute(self, request: m.ExecuteRequest, call: Call) -> r.CommandResult:
        """Run a command in a process of its own. It runs on if the client goes away."""
        entry = usable_of(self._state, request.sandbox_id, call)
        command = request.command
        if request.shell and not isinstance(command, str):
            command = ["/bin/sh", "-c", *command]
        try:
            result = await entry.use(
                Sandbox.execute,
                command,
                timeout=self._limit(request.timeout),
                cwd=request.cwd,
                env=request.env,
                check=request.check,
            )
        except CommandFailed as error:
            raise _with_words(error, request.error_msg) from error
        return r.CommandResult(
            stdout=result.stdout,
            stderr=result.stderr,
            exit_code=result.exit_code,
            truncated=result.truncated,
            cause=result.cause,
        )

    async def create_session(self, request: m.CreateSessionRequest, call: Call) -> r.SessionCreated:
        """Open a shell that keeps its state from command to command."""
        entry = usable_of(self._state, request.sandbox_id, call)
        output = await entry.use(_open_session, request)
        entry.lost_sessions.discard(request.session)
        entry.sessions.add(request.session)
        entry.note()
        return r.SessionCreated(output=output)

    async def run_in_session(self, request: m.RunRequest, call: Call) -> r.Observation:
        """Run a command in a session. Several at once queue."""
        entry = usable_of(self._state, request.sandbox_id, call)
        _check_session(entry, request.session)
        if request.is_interactive_command or request.is_interactive_quit:
            raise SpecError(
                "sessions run commands to their end here: give the program its input by a pipe or "
                "a here-document instead of is_interactive_command"
            )
        try:
            result = await entry.use(
                Sandbox.run_in_session,
                request.session,
                request.command,
                timeout=self._limit(request.timeout),
                check=request.check == "raise",
            )
        except CommandFailed as error:
            raise _with_words(error, request.error_msg) from error
        return r.Observation(
            output=result.output.rstrip("\r\n"),  # as ROCK has it
            exit_code=None if request.check == "ignore" else result.exit_code,
            truncated=result.truncated,
            cause=result.cause,
        )

    async def close_session(self, request: m.CloseSessionRequest, call: Call) -> r.SessionClosed:
        """End a session, and all that runs in it."""
        entry = usable_of(self._state, request.sandbox_id, call)
        _check_session(entry, request.session)
        await entry.use(Sandbox.close_session, request.session)
        entry.sessions.discard(request.session)
        entry.note()
        return r.SessionClosed()


def _with_words(error: CommandFailed, words: str) -> CommandFailed:
    """Put a client's own words before those of an error."""
    if words:
        error.message = f"{words}: {error.message}"
    return error


def _check_session(entry: SandboxEntry | GemEntry, name: str) -> None:
    if name in entry.lost_sessions:
        raise Refused(
            f"the session {name[:80]!r} ended when the server was restarted; create it again",
            kind="server_restarted",
            http=410,
        )


# ROCK's client puts a command behind by `... & echo ...; disown`. In its interactive shells a job
# that has ended already is still there to be disowned; in ours it is gone, which is as good.
_DISOWN = """disown() {
    if [ $# -gt 0 ]; then builtin disown "$@"; else builtin disown 2>/dev/null || :; fi
}"""


def _open_session(sandbox: Sandbox, request: m.CreateSessionRequest) -> str:
    """Open a session and run its startup files; returns what those printed."""
    if request.remote_user is not None:
        user = sandbox.execute(["id", "-un"], timeout=10).stdout.strip()
        if request.remote_user != user:
            raise SpecError(
                f"sessions run as {user!r} in this sandbox; leave remote_user out, or use su"
            )
    session = sandbox.create_session(request.session, env=request.env)
    output = ""
    deadline = time.monotonic() + max(30.0, request.startup_timeout)
    try:
        session.run(_DISOWN, timeout=30)
        for path in request.startup_source:
            quoted = "'" + path.replace("'", "'\\''") + "'"
            left = max(0.1, deadline - time.monotonic())
            output += session.run(f". {quoted}", timeout=left).output
    except RockGymError:
        session.close()  # otherwise its name would be taken, by a session that nobody knows of
        raise
    return output
