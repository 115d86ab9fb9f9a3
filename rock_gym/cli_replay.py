"""The ``rock-gym replay`` command: a recording done again, or made a page to read."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from rock_gym.cli_options import sandbox_options, started_with
from rock_gym.cli_output import harmless, json_option, print_json

if TYPE_CHECKING:
    from rock_gym.wrappers.again import Difference

__all__ = ["replay"]

_SHOWN = 300


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--html", "page", metavar="OUT", type=click.Path(dir_okay=False), help="Write a page instead."
)
@sandbox_options
@json_option
@click.pass_context
def replay(
    ctx: click.Context, /, file: str, page: str | None, as_json: bool, **sandbox: Any
) -> None:
    """Do again what the cassette FILE recorded, and name the first step that differs.

    Exit code 0 if all is as recorded, else 1. With --html nothing is done again: OUT becomes one
    page with all episodes. The options about sandboxes take the place of what was recorded.
    """
    from rock_gym.wrappers import rerun, write_page

    if page is not None:
        count = write_page(file, page)
        if as_json:
            print_json({"page": page, "episodes": count})
        else:
            click.echo(f"{page}: {count} episodes")
        return
    outcome = rerun(file, **started_with(**sandbox))
    if as_json:
        print_json(asdict(outcome))
    elif outcome.difference is not None:
        click.echo(f"{file}: {_tell(outcome.difference)}")
    else:
        click.echo(f"{file}: {outcome.episodes} episodes, {outcome.steps} steps, all as recorded")
    if outcome.unchecked and not as_json:
        click.echo(f"{outcome.unchecked} steps not taken, as a fault was recorded", err=True)
    ctx.exit(0 if outcome.difference is None else 1)


def _tell(difference: Difference) -> str:
    step = f"step {difference.step}" if difference.step else "reset"
    env = f"line {difference.line}, environment {difference.env}"
    where = f"{env}, episode {difference.episode}, {step}"
    if difference.what == "fault":
        return f"{where} failed: {harmless(str(difference.found))}"
    recorded, found = _near(difference.recorded, difference.found)
    return f"{where} differs in {difference.what}\n  recorded: {recorded}\n  now:      {found}"


def _near(recorded: Any, found: Any) -> tuple[str, str]:
    """Return both values as one line each, from shortly before where they part."""
    both = repr(recorded), repr(found)
    same = next(
        (i for i, (a, b) in enumerate(zip(*both, strict=False)) if a != b), min(map(len, both))
    )
    start = max(same - 60, 0)
    return _cut(both[0], start), _cut(both[1], start)


def _cut(text: str, start: int) -> str:
    before, after = "..." if start else "", "..." if len(text) > start + _SHOWN else ""
    return f"{before}{harmless(text[start : start + _SHOWN])}{after}"
