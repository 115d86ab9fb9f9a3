"""The ``rock-gym bench`` command: what sandboxes and environments cost on this machine."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict

import click

from rock_gym._version import __version__
from rock_gym.cli_completion import complete_backend
from rock_gym.cli_output import json_option, print_json, print_table

__all__ = ["bench"]


@click.command()
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    shell_complete=complete_backend,
    help="What runs the sandboxes.",
)
@click.option(
    "--num-envs", type=click.IntRange(1), default=64, show_default=True, help="Of the vectors."
)
@click.option(
    "--scale",
    type=click.FloatRange(0.01, 1000),
    default=1.0,
    show_default=True,
    help="How many samples to take, as a multiple of the usual.",
)
@json_option
def bench(backend: str, num_envs: int, scale: float, as_json: bool) -> None:
    """Measure sandboxes and environments on this machine, for some seconds.

    A bare process comes first, to compare with. Nothing is judged: what is fast enough depends on
    what you do, and what else this machine does meanwhile is in the figures.
    """
    from rock_gym.measure import measure

    found = []
    for figure in measure(backend, num_envs, scale):
        found.append(figure)
        click.echo(f"{figure.name}: {figure.median:.4g} {figure.unit}", err=True)
    machine = {
        "rock_gym": __version__,
        "backend": backend,
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    if as_json:
        print_json({**machine, "figures": [asdict(each) for each in found]})
        return
    print_table(
        ("", "median", "90th percentile", "unit", "samples"),
        (
            (each.name, f"{each.median:.4g}", f"{each.p90:.4g}", each.unit, str(each.samples))
            for each in found
        ),
    )
    click.echo(
        f"rock-gym {__version__}, backend {backend}, {machine['cpus']} CPUs, "
        f"Linux {machine['kernel']}, Python {machine['python']}"
    )
