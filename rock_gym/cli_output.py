"""How ``rock-gym`` prints results: as a table, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def print_json(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below headings."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


# What a text out of a sandbox could do to a terminal: all of C0 but tab and newline, and C1.
_CONTROLS = dict.fromkeys(
    [*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}"
)


def harmless(text: str) -> str:
    """Return a text of a sandbox without what would command the terminal that it is shown on."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)
