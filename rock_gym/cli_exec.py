"""The ``rock-gym exec`` command: one command in a fresh sandbox."""

from __future__ import annotations

from typing import Any

import click

from rock_gym.cli_options import sandbox_options
from rock_gym.errors import CommandTimeout, FileError, RockGymError

__all__ = ["run_command"]

# What timeout(1), env(1) and container engines make of the same mishaps.
_TIMED_OUT, _NO_SANDBOX, _NO_COMMAND = 124, 125, 127


class _Failed(click.ClickException):
    """One line on standard error, with an exit code that no command is likely to have."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@sandbox_options
@click.option("--cwd", metavar="DIR", help="Where it starts; by default the work directory.")
@click.option("--env", "env", metavar="NAME=VALUE", multiple=True, help="Set a variable in it.")
@click.option("--timeout", type=float, metavar="S", help="Seconds it may run; by default no limit.")
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    command: tuple[str, ...],
    cwd: str | None,
    env: tuple[str, ...],
    timeout: float | None,
    **options: Any,
) -> None:
    """Run COMMAND in a fresh sandbox, and pass its output and exit code on.

    Its standard input is empty. For a pipe, ask a shell: rock-gym exec -- sh -c 'ls | wc -l'.
    Exit codes beside its own: 124 it outlived --timeout, 125 there is no sandbox, 127 there is no
    such command or DIR.
    """
    from rock_gym.sandbox import Sandbox

    variables = dict(_split(each) for each in env)
    try:
        with Sandbox.start(**options) as sandbox:
            result = sandbox.execute(
                list(command), timeout=timeout, cwd=cwd, env=variables, on_output=_show
            )
    except CommandTimeout as error:
        raise _Failed(str(error), _TIMED_OUT) from error
    except FileError as error:
        raise _Failed(str(error), _NO_COMMAND) from error
    except RockGymError as error:
        raise _Failed(f"{error}; see what is missing with: rock-gym doctor", _NO_SANDBOX) from error
    ctx.exit(result.exit_code)


def _show(name: str, text: str) -> None:
    click.echo(text, nl=False, err=name == "stderr")


def _split(assignment: str) -> tuple[str, str]:
    name, sign, value = assignment.partition("=")
    if not (name and sign):
        raise click.BadParameter(f"--env takes NAME=VALUE, not {assignment!r}")
    return name, value
