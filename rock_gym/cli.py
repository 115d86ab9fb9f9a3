"""The ``rock-gym`` command.

Results go to standard output, as a table or with ``--json`` as JSON; what went wrong is one line on
standard error with the next command to type. Exit codes: 0 done, 1 it did not work, 2 the command
line makes no sense. Modules that a command needs are imported by that command alone, so that
``--help`` and shell completion stay quick.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from rock_gym import cli_docker
from rock_gym._version import __version__
from rock_gym.cli_envs import envs
from rock_gym.cli_exec import run_command
from rock_gym.cli_image import image
from rock_gym.cli_options import sandbox_options
from rock_gym.cli_output import json_option, print_json
from rock_gym.cli_replay import replay
from rock_gym.cli_run import run
from rock_gym.cli_serve import serve
from rock_gym.errors import RockGymError

if TYPE_CHECKING:
    from rock_gym.sandbox import Sandbox

__all__ = ["main"]

EMBEDDED = "bubblewrap"


class _Group(click.Group):
    """Turns the library's errors into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RockGymError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rock-gym")
def main() -> None:
    """GEM environments for LLM agents, each inside a sandbox."""


main.add_command(envs)
main.add_command(image)
main.add_command(replay)
main.add_command(run)
main.add_command(run_command)
main.add_command(serve)


@main.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check that embedded sandboxes work here; exit 0 if they do."""
    checks = _examine()
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        for check in checks:
            mark = click.style("ok", "green") if check.ok else click.style("failed", "red")
            click.echo(f"{check.name}: {mark}  {check.detail}")
    if not all(check.ok for check in checks):
        ctx.exit(1)


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


image.add_command(cli_docker.build)
main.add_command(cli_docker.ps)
main.add_command(cli_docker.reap)


@dataclass(frozen=True)
class _Check:
    """One line of ``doctor``."""

    name: str
    ok: bool
    detail: str


def _examine() -> list[_Check]:
    return [*_examine_sandbox(), _examine_gem()]


def _examine_gem() -> _Check:
    from rock_gym.gem.interpreter import find_guest_python

    try:
        return _Check("gem", True, f"found by {find_guest_python().executable}")
    except RockGymError as error:
        return _Check("gem", False, error.message)


def _examine_sandbox() -> list[_Check]:
    from rock_gym.sandbox import Sandbox

    start = time.perf_counter()
    try:
        with Sandbox.start(backend=EMBEDDED) as sandbox:
            sandbox.execute(["true"], check=True)
            took_ms = (time.perf_counter() - start) * 1000
            return [
                _Check("embedded sandbox", True, f"answers {took_ms:.0f} ms after its start"),
                _Check("limits", True, _limits(sandbox)),
            ]
    except RockGymError as error:
        return [_Check("embedded sandbox", False, error.message)]


def _limits(sandbox: Sandbox) -> str:
    holds = sandbox.capabilities
    parts = {"memory": holds.memory, "cpus": holds.cpu, "processes": holds.pids, "disk": holds.disk}
    return ", ".join(f"{name} by {how}" for name, how in parts.items())
