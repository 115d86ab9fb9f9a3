"""Commands about containers and images of a Docker Engine."""

from __future__ import annotations

import json

import click

__all__ = ["build", "ps", "reap"]


@click.group()
def build() -> None:
    """Build images."""


@build.command("gem")
@click.option("--base", default="python:3.11", show_default=True, help="What to start from.")
@click.option("--name", metavar="NAME", help="What to call it.")
@click.option("--python", metavar="PATH", help="An interpreter here, of the base's version.")
def build_gem(base: str, name: str | None, python: str | None) -> None:
    """Build the image for GEM environments, from any base with Python 3.10 to 3.12."""
    from rock_gym.gem.image import GEM_IMAGE, build_image

    built = build_image(
        base,
        name=name or GEM_IMAGE,
        python=python,
        progress=lambda line: click.echo(line, err=True),
    )
    click.echo(f"{built.name} {built.size_bytes >> 20} MiB")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def ps(as_json: bool) -> None:
    """List containers of rock_gym, whoever started them."""
    from rock_gym.backends.docker import DockerBackend

    backend = DockerBackend()
    try:
        found = backend.list()
    finally:
        backend.close()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for each in found:
        click.echo("  ".join(f"{value}" for value in each.values()))


@click.command()
def reap() -> None:
    """Remove containers whose owners have died, and leases that have ended."""
    from rock_gym.backends.docker import DockerBackend

    backend = DockerBackend()
    try:
        for name in backend.reap():
            click.echo(name)
    finally:
        backend.close()
