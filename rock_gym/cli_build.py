"""The ``rock-gym image build`` commands: images made here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rock_gym.cli_completion import complete_image
from rock_gym.cli_errors import Failed
from rock_gym.cli_options import backend_option
from rock_gym.cli_output import harmless, json_option, mib, print_json

if TYPE_CHECKING:
    from rock_gym.backends.base import CommittedImage

__all__ = ["build"]

_LONGEST_OUTPUT = 2000


@click.group()
def build() -> None:
    """Build an image: for GEM, from another image, or from a Dockerfile."""


@build.command("gem")
@click.option("--base", default="python:3.11", show_default=True, help="What to start from.")
@click.option("--name", metavar="NAME", help="What to call it.")
@click.option("--python", metavar="PATH", help="An interpreter here, of the base's version.")
@json_option
def build_gem(base: str, name: str | None, python: str | None, as_json: bool) -> None:
    """Build an engine's image for GEM environments, from any with Python 3.10 to 3.12.

    Embedded sandboxes need none: they see the interpreter that runs this.
    """
    from rock_gym.gem.image import GEM_IMAGE, build_image

    built = build_image(base, name=name or GEM_IMAGE, python=python, progress=_progress)
    _tell(built, as_json)


@build.command("from")
@click.argument("base", shell_complete=complete_image)
@click.argument("name")
@click.option(
    "--copy", "copies", metavar="HERE:THERE", multiple=True, help="Copy a file or a folder first."
)
@click.option("--run", "commands", metavar="COMMAND", multiple=True, help="Then run this.")
@backend_option("Whose image; by default embedded sandboxes'.")
@click.option("--network", metavar="NAME", help="The network for --run; containers can have one.")
@json_option
def build_from(
    base: str,
    name: str,
    copies: tuple[str, ...],
    commands: tuple[str, ...],
    backend: str | None,
    network: str | None,
    as_json: bool,
) -> None:
    """Start a sandbox of the image BASE, change it, and keep it as the image NAME.

    Each COMMAND is run by a shell, in the order given; one that fails ends it, and nothing is kept.
    """
    from rock_gym.errors import CommandFailed
    from rock_gym.sandbox import Sandbox

    pairs = [_split(each) for each in copies]
    more: dict[str, Any] = {} if network is None else {"network": network}
    with Sandbox.start(base, backend=backend or "bubblewrap", **more) as sandbox:
        for here, there in pairs:
            _progress(f"copying {here}")
            sandbox.upload(here, there)
        for command in commands:
            _progress(f"running {command}")
            try:
                sandbox.execute(command, timeout=None, cwd="/", check=True)
            except CommandFailed as error:
                said = (error.output or "").strip()[-_LONGEST_OUTPUT:]
                click.echo(harmless(said), err=True)
                raise Failed(f"{command!r} ended with code {error.exit_code}") from error
        _tell(sandbox.commit(name), as_json)


@build.command("file")
@click.argument("dockerfile", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("name")
@json_option
def build_file(dockerfile: Path, name: str, as_json: bool) -> None:
    """Have the engine build the image NAME from DOCKERFILE, which copies no file of this machine.

    For embedded sandboxes, go on with rock-gym image export --backend docker, and image import.
    """
    from rock_gym.backends.docker import DockerBackend

    engine = DockerBackend()
    try:
        engine.images.build(name, dockerfile.read_text(), progress=_progress)
        built = engine.images.named(name, name)
    finally:
        engine.close()
    _tell(built, as_json)


def _progress(line: str) -> None:
    click.echo(line, err=True)


def _tell(built: CommittedImage, as_json: bool) -> None:
    if as_json:
        print_json({"name": built.name, "size_bytes": built.size_bytes})
    else:
        click.echo(f"{built.name} {mib(built.size_bytes)}")


def _split(pair: str) -> tuple[str, str]:
    here, colon, there = pair.partition(":")
    if not (here and colon and there):
        raise click.BadParameter(f"--copy takes HERE:THERE, not {pair!r}")
    if not os.path.exists(here):
        raise click.BadParameter(f"--copy: there is no {here!r}")
    return here, there
