"""How ``rock-gym`` fails: one line on standard error, and an exit code that says what it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from rock_gym.errors import (
    BackendUnavailable,
    EnvUnavailable,
    ImageNotFound,
    RockGymError,
    SpecError,
)

__all__ = ["EXIT_CODES", "Failed", "telling"]

NO, NONSENSE, LACKING, INTERRUPTED = 1, 2, 3, 130

EXIT_CODES = """\b
Exit codes:
  0    done
  1    done, and the answer is no; or it failed
  2    what was asked for makes no sense
  3    this machine lacks something; the message says how to get it
  130  interrupted by Ctrl-C
  exec and shell pass on those of their command; exec has 124, 125 and 127, too."""

_KINDS = (
    (SpecError, NONSENSE),
    (BackendUnavailable, LACKING),
    (EnvUnavailable, LACKING),
    (ImageNotFound, LACKING),
)


class Failed(click.ClickException):
    """One line on standard error, with an exit code."""

    def __init__(self, message: str, exit_code: int = NO) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code  # type: ignore[misc]


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Turn what goes wrong inside into ``Failed``, but not what is a mistake of ours."""
    try:
        yield
    except RockGymError as error:
        code = next((code for kind, code in _KINDS if isinstance(error, kind)), NO)
        raise Failed(str(error), code) from error
    except KeyboardInterrupt as error:
        raise Failed("interrupted", INTERRUPTED) from error
    except OSError as error:
        if error.filename is None:
            raise  # not about a file that was named, so nobody could make anything of it
        raise Failed(f"{error.filename}: {error.strerror}") from error
