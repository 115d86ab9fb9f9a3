"""The ``rock-gym`` command.

Results go to standard output, as a table or with ``--json`` as JSON; what went wrong is one line on
standard error with the next command to type, and an exit code; see ``cli_errors``. Modules that a
command needs are imported by that command alone, so that ``--help`` and completion stay quick.
"""

from __future__ import annotations

import os
from typing import Any

import click

from rock_gym._version import __version__
from rock_gym.cli_bench import bench
from rock_gym.cli_build import build
from rock_gym.cli_completion import completion
from rock_gym.cli_doctor import doctor
from rock_gym.cli_envs import envs
from rock_gym.cli_errors import EXIT_CODES, telling
from rock_gym.cli_exec import run_command
from rock_gym.cli_image import image
from rock_gym.cli_options import sandbox_options
from rock_gym.cli_ps import ps, reap
from rock_gym.cli_replay import replay
from rock_gym.cli_run import run
from rock_gym.cli_serve import serve

__all__ = ["main"]


class _Group(click.Group):
    """Tells errors in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        with telling():
            return super().invoke(ctx)


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES
)
@click.version_option(__version__, prog_name="rock-gym")
def main() -> None:
    """GEM environments for LLM agents, each inside a sandbox."""


image.add_command(build)
for command in (bench, completion, doctor, envs, image, ps, reap, replay, run, run_command, serve):
    main.add_command(command)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@sandbox_options
@click.pass_context
def shell(ctx: click.Context, /, command: tuple[str, ...], **options: Any) -> None:
    """Open a shell, or COMMAND, on a terminal in a fresh sandbox.

    The sandbox and all in it are gone when it ends; the exit code is that of the shell.
    """
    from rock_gym.console import interact, size_of
    from rock_gym.sandbox import Sandbox

    rows, columns = size_of(1)
    env = {"TERM": os.environ.get("TERM", "xterm")}
    with (
        Sandbox.start(**options) as sandbox,
        sandbox.open_pty(list(command) or None, rows=rows, columns=columns, env=env) as pty,
    ):
        code = interact(pty)
    ctx.exit(code)


@main.group()
def guest() -> None:
    """Manage the interpreter that runs GEM inside sandboxes."""


@guest.command()
@click.option("--python", metavar="PATH", help="The interpreter to build it from.")
def install(python: str | None) -> None:
    """Build, once, an interpreter with GEM in your cache, for Pythons that cannot have it."""
    from rock_gym.gem import interpreter

    click.echo(interpreter.install(python, lambda line: click.echo(line, err=True)))
