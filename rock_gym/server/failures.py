"""How a failure is told over HTTP: its kind, its status, ROCK's code, and words for the client.

Every error of the library has one row here. What has none is a defect of ours: the client gets its
request's id and nothing of the inside, and the log gets the traceback.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from rock_gym import errors
from rock_gym.envs.misuse import EnvClosed, ResetNeeded
from rock_gym.errors import CommandFailed, CommandTimeout, FileError, RockGymError

_log = logging.getLogger("rock_gym.server")

BAD_REQUEST = 4000
INTERNAL_ERROR = 5000
COMMAND_ERROR = 6000


class Refused(RockGymError):
    """Raised when the server itself turns a request down: an unknown id, a wrong type, a limit.

    Args:
        message: What is wrong and what to do.
        kind: A word for programs, such as ``"unknown_sandbox"``.
        http: The status in strict mode.
        code: ROCK's code.
        real: Whether the status is that in either mode, since no client of ROCK does this.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "invalid_request",
        http: int = 422,
        code: int = BAD_REQUEST,
        real: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.http = http
        self.code = code
        self.real = real


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client is told.

    Attributes:
        kind: A word for programs; stays the same from version to version.
        http: The HTTP status in strict mode.
        code: ROCK's code: 4000 for what the client did, 5000 for what went wrong here, 6000 for
            a command that failed.
        reason: What happened and what to do next.
        more: What else the result says, such as the output of a command.
    """

    kind: str
    http: int
    code: int
    reason: str
    more: dict[str, Any] = field(default_factory=dict)


# The first class that fits counts.
_KINDS: tuple[tuple[type[RockGymError], str, int, int], ...] = (
    (errors.SpecError, "invalid_request", 422, BAD_REQUEST),
    (errors.ImageNotFound, "image_not_found", 404, BAD_REQUEST),
    (errors.ImageError, "image_error", 422, BAD_REQUEST),
    (errors.BackendUnavailable, "backend_unavailable", 503, INTERNAL_ERROR),
    (errors.StartFailed, "start_failed", 503, INTERNAL_ERROR),
    (errors.SandboxLost, "sandbox_lost", 410, INTERNAL_ERROR),
    (errors.SandboxClosed, "sandbox_closed", 409, BAD_REQUEST),
    (errors.SessionClosed, "session_closed", 404, BAD_REQUEST),
    (errors.CommandTimeout, "command_timeout", 504, COMMAND_ERROR),
    (errors.CommandFailed, "command_failed", 422, COMMAND_ERROR),
    (errors.FileError, "file_error", 422, BAD_REQUEST),
    (errors.PoolExhausted, "pool_exhausted", 503, INTERNAL_ERROR),
    (errors.PoolClosed, "shutting_down", 503, INTERNAL_ERROR),
    (errors.EnvUnavailable, "env_unavailable", 424, BAD_REQUEST),
    (errors.EnvError, "env_error", 422, BAD_REQUEST),
    (errors.StepTimeout, "step_timeout", 504, INTERNAL_ERROR),
    (errors.ResetTimeout, "reset_timeout", 504, INTERNAL_ERROR),
    (errors.WireError, "wire_error", 502, INTERNAL_ERROR),
    (errors.CassetteError, "cassette_error", 500, INTERNAL_ERROR),
    (ResetNeeded, "reset_needed", 409, BAD_REQUEST),
    (EnvClosed, "env_closed", 410, BAD_REQUEST),
)
_FILE_STATUS = {
    "ENOENT": 404,
    "EACCES": 403,
    "EPERM": 403,
    "EISDIR": 409,
    "ENOTDIR": 409,
    "EEXIST": 409,
    "EFBIG": 413,
    "ENOSPC": 507,
    "EDQUOT": 507,
}


def explain(error: BaseException, request_id: str) -> Failure:
    """Return what a client is told of an error; one that nobody expected is logged."""
    if isinstance(error, Refused):
        return Failure(error.kind, error.http, error.code, error.message)
    if isinstance(error, RockGymError):
        for cls, kind, http, code in _KINDS:
            if isinstance(error, cls):
                return Failure(
                    kind, _status(error, http), code, error.message.rstrip(), _details(error)
                )
    _log.error("request %s failed unexpectedly", request_id, exc_info=error)
    reason = f"internal error; the server's log has it under the request id {request_id}"
    return Failure("internal_error", 500, INTERNAL_ERROR, reason)


def tellable(error: Exception, request_id: str) -> RockGymError:
    """Return the error that clients are told of a task: its own, unless nobody expected that.

    Whoever asks may come long after a task has failed, or never.
    """
    if isinstance(error, RockGymError):
        return error
    failure = explain(error, request_id)
    return Refused(failure.reason, kind=failure.kind, http=failure.http, code=failure.code)


def _status(error: RockGymError, http: int) -> int:
    return _FILE_STATUS.get(error.reason, http) if isinstance(error, FileError) else http


def _details(error: RockGymError) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if error.output is not None:
        found["output"] = error.output
    if error.cause is not None:
        found["cause"] = error.cause
    if isinstance(error, CommandFailed):
        found["exit_code"] = error.exit_code
    if isinstance(error, CommandTimeout):
        found["session_restarted"] = error.session_restarted
    if isinstance(error, FileError):
        found |= {"path": error.path, "errno": error.reason}
    return found
