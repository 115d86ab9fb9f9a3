"""The command ``rock-gym doctor``."""

from __future__ import annotations

from dataclasses import asdict

import click

from rock_gym.cli_output import json_option, print_json

__all__ = ["doctor"]

_COLOURS = {"ok": "green", "degraded": "yellow", "missing": "red"}


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Try what sandboxes need here; say what holds, what only in part, and how to mend it.

    The exit code is 0 where environments find a backend to run on, and 1 where they do not.
    """
    from rock_gym.doctor import examine

    report = examine()
    if as_json:
        print_json(asdict(report))
    else:
        width = max(len(f"{check.part} {check.name}") for check in report.checks)
        for check in report.checks:
            title = f"{check.part} {check.name}".ljust(width)
            state = click.style(check.state.ljust(8), fg=_COLOURS[check.state])
            click.echo(f"{title}  {state}  {check.detail}")
            if check.fix is not None:
                click.echo(f"{' ' * width}            fix: {check.fix}")
        click.echo(
            f"sandboxes start with: {report.default_backend}"
            if report.default_backend
            else "no sandbox can be started here: mend what is missing of one backend"
        )
    if report.default_backend is None:
        ctx.exit(1)
