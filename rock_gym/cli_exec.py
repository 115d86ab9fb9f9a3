"""The ``rock-gym exec`` command: one command in a fresh sandbox."""

from __future__ import annotations

from typing import Any

import click

from rock_gym.cli_errors import Failed
from rock_gym.cli_options import sandbox_options
from rock_gym.cli_output import json_option, print_json
from rock_gym.errors import CommandTimeout, FileError, RockGymError, SpecError

__all__ = ["run_command"]

# What timeout(1), env(1) and container engines make of the same mishaps.
_TIMED_OUT, _NO_SANDBOX, _NO_COMMAND = 124, 125, 127


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@sandbox_options
@click.option("--cwd", metavar="DIR", help="Where it starts; by default the work directory.")
@click.option("--env", "env", metavar="NAME=VALUE", multiple=True, help="Set a variable in it.")
@click.option("--timeout", type=float, metavar="S", help="Seconds it may run; by default no limit.")
@json_option
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    command: tuple[str, ...],
    cwd: str | None,
    env: tuple[str, ...],
    timeout: float | None,
    as_json: bool,
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
                list(command),
                timeout=timeout,
                cwd=cwd,
                env=variables,
                on_output=None if as_json else _show,
            )
    except CommandTimeout as error:
        raise Failed(str(error), _TIMED_OUT) from error
    except FileError as error:
        raise Failed(str(error), _NO_COMMAND) from error
    except SpecError:
        raise
    except RockGymError as error:
        told = str(error)
        if "rock-gym doctor" not in told:
            told += "; see what is missing with: rock-gym doctor"
        raise Failed(told, _NO_SANDBOX) from error
    if as_json:
        print_json(
            {
                "exit_code": result.exit_code,
                "stdout": result.stdout,
                "stderr": result.stderr,
                "truncated": result.truncated,
            }
        )
    ctx.exit(result.exit_code)


def _show(name: str, text: str) -> None:
    click.echo(text, nl=False, err=name == "stderr")


def _split(assignment: str) -> tuple[str, str]:
    name, sign, value = assignment.partition("=")
    if not (name and sign):
        raise click.BadParameter(f"--env takes NAME=VALUE, not {assignment!r}")
    return name, value
