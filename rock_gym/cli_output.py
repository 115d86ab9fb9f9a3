"""How ``rock-gym`` prints results: as a table, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

import click

_WIDE = 10_000

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
    # What goes into a pipe is for other programs, to which a broken line is another line.
    width = None if sys.stdout.isatty() else _WIDE
    Console(width=width).print(table)


def mib(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / (1 << 20):.1f} MiB"


def age(seconds: float) -> str:
    """Return a time as people read it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


# What a text out of a sandbox could do to a terminal: all of C0 but tab and newline, and C1.
_CONTROLS = dict.fromkeys(
    [*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}"
)


def harmless(text: str) -> str:
    """Return a text of a sandbox without what would command the terminal that it is shown on."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)
