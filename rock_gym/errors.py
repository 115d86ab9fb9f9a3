"""Every error of the library: one tree, each with the sandbox it happened in and what to do next.

RockGymError
├── SpecError               what was asked for makes no sense (also a ValueError)
├── ImageNotFound           no image of that name here
├── ImageError              an image could not be imported, removed, committed or exported
├── BackendUnavailable      this machine cannot run that kind of sandbox
├── StartFailed             a sandbox did not come up
├── SandboxLost             a running sandbox died under us
├── SandboxClosed           a sandbox was used after stop() or delete()
├── SessionClosed           no such session, or its shell has ended
├── CommandTimeout          a command outlived its limit (also a TimeoutError)
├── CommandFailed           a command ended with a code other than 0 and check=True
├── FileError               a file in a sandbox, or on its way, cannot be read or written
├── PoolExhausted           no sandbox became free in time (also a TimeoutError)
├── PoolClosed              a pool was used after close()
├── EnvUnavailable          an environment lacks something it needs (words, pandas, a data set)
├── CassetteError           a recording cannot be read, written, or played back as asked
├── EnvError                GEM raised inside make, reset or step
├── StepTimeout             a step outlived its limit (also a TimeoutError)
├── ResetTimeout            a reset outlived its limit (also a TimeoutError)
└── WireError               a guest sent something that is not a valid message
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BackendUnavailable",
    "CassetteError",
    "CommandFailed",
    "CommandTimeout",
    "EnvError",
    "EnvUnavailable",
    "FileError",
    "ImageError",
    "ImageNotFound",
    "PoolClosed",
    "PoolExhausted",
    "ResetTimeout",
    "RockGymError",
    "SandboxClosed",
    "SandboxLost",
    "SessionClosed",
    "SpecError",
    "StartFailed",
    "StepTimeout",
    "WireError",
]


class RockGymError(Exception):
    """Raised when anything in rock_gym fails: the root of the tree.

    Args:
        message: What happened and what to do next.
        sandbox_id: The sandbox it happened in, if there is one.
        output: The last output that was seen, if there was any.

    Attributes:
        cause: The limit that the sandbox ran into meanwhile and that may well be why: ``"oom"``
            (memory), ``"pids"`` (processes) or ``"disk"``, else None.
    """

    def __init__(
        self, message: str, *, sandbox_id: str | None = None, output: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sandbox_id = sandbox_id
        self.output = output
        self.cause: str | None = None

    def __str__(self) -> str:
        return f"{self.message} [{self.sandbox_id}]" if self.sandbox_id else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments are lost by the default protocol, and errors cross process
        # boundaries in AsyncVectorEnv and Ray.
        return (_rebuild, (type(self), self.message, self.__dict__.copy()))


def _rebuild(kind: type[RockGymError], message: str, state: dict[str, Any]) -> RockGymError:
    error = kind.__new__(kind, message)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class SpecError(RockGymError, ValueError):
    """Raised when an argument makes no sense: a size, an id, a timeout, a path or a name."""


class ImageNotFound(RockGymError):
    """Raised when no image of that name is here; names what would supply it."""


class ImageError(RockGymError):
    """Raised when an image could not be imported, removed, committed or exported; says why."""


class BackendUnavailable(RockGymError):
    """Raised when this machine cannot run that kind of sandbox; names the remedy."""


class StartFailed(RockGymError):
    """Raised when a sandbox did not come up; carries the runtime's own words."""


class SandboxLost(RockGymError):
    """Raised when a running sandbox died under us; start or acquire another one."""


class SandboxClosed(RockGymError):
    """Raised when a sandbox is used after ``stop()`` or ``delete()``."""


class SessionClosed(RockGymError):
    """Raised when a session is unknown or its shell has ended; create a new one."""


class CommandTimeout(RockGymError, TimeoutError):
    """Raised when a command outlived its limit; it and all it started have been killed.

    Attributes:
        output: What the command had printed until then.
        session_restarted: Whether the session's shell had to be replaced, which loses its
            variables, functions and background jobs.
    """

    def __init__(
        self,
        message: str,
        *,
        sandbox_id: str | None = None,
        output: str | None = None,
        session_restarted: bool = False,
    ) -> None:
        super().__init__(message, sandbox_id=sandbox_id, output=output)
        self.session_restarted = session_restarted


class CommandFailed(RockGymError):
    """Raised when a command ended with a code other than 0 and ``check=True`` was given.

    Attributes:
        exit_code: The code it ended with; 128 + n after signal n.
        output: What it printed.
    """

    def __init__(
        self,
        message: str,
        *,
        exit_code: int,
        sandbox_id: str | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__(message, sandbox_id=sandbox_id, output=output)
        self.exit_code = exit_code


class FileError(RockGymError):
    """Raised when a file in a sandbox, or a local one on its way, cannot be read or written.

    Attributes:
        path: The path as it was given.
        reason: The system's name of the cause, such as ``ENOENT`` or ``EISDIR``, or
            ``not_text`` when bytes could not be decoded.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str,
        reason: str,
        sandbox_id: str | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__(message, sandbox_id=sandbox_id, output=output)
        self.path = path
        self.reason = reason


class PoolExhausted(RockGymError, TimeoutError):
    """Raised when no sandbox became free in time; raise ``max_size`` or release some."""


class PoolClosed(RockGymError):
    """Raised when a pool is used after ``close()``."""


class EnvUnavailable(RockGymError):
    """Raised when an environment lacks something it needs; names it and how to supply it."""


class CassetteError(RockGymError):
    """Raised when a recording cannot be read or written, or does not go on as it is asked to."""


class EnvError(RockGymError):
    """Raised when GEM raised inside make, reset or step, or its process ended.

    ``output`` is the traceback, where one was left.
    """


class StepTimeout(RockGymError, TimeoutError):
    """Raised when a step outlived its limit; the environment's process has been killed."""


class ResetTimeout(RockGymError, TimeoutError):
    """Raised when a reset outlived its limit; the environment's process has been killed."""


class WireError(RockGymError):
    """Raised when a guest sent something that is not a valid message; its process is killed."""
