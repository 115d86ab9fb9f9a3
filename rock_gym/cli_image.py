"""The ``rock-gym image`` commands: what sandboxes start from, embedded ones and containers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from rock_gym.cli_completion import complete_image
from rock_gym.cli_options import backend_option
from rock_gym.cli_output import json_option, mib, print_json, print_table
from rock_gym.errors import BackendUnavailable

if TYPE_CHECKING:
    from rock_gym.cli_keepers import Kept

__all__ = ["image"]

EMBEDDED = "bubblewrap"

_whose = backend_option("Whose image; by default embedded sandboxes'.")


@click.group()
def image() -> None:
    """Manage the images of embedded sandboxes and of a Docker Engine."""


@image.command("list")
@backend_option("Only those of this backend.")
@json_option
def list_images(backend: str | None, as_json: bool) -> None:
    """List the images there are, beside the built-in host."""
    found = [*_listed(backend)]
    if as_json:
        print_json([{**asdict(one), "created": _date(one.created_s)} for one in found])
        return
    rows = (
        (one.name, one.backend, str(one.layers or "-"), _date(one.created_s), mib(one.size_bytes))
        for one in found
    )
    print_table(("name", "backend", "layers", "created", "size"), rows)


def _listed(backend: str | None) -> Iterator[Kept]:
    from rock_gym.cli_keepers import keeper

    for each in (EMBEDDED, "docker"):
        if backend in (None, each):
            try:
                with keeper(each) as images:
                    yield from images.list()
            except BackendUnavailable:
                if backend is not None:
                    raise  # who asks for all may well have no engine


_max_size = click.option(
    "--max-size", metavar="SIZE", help="How much it may unpack to, such as 64g; by default 32g."
)


@image.command("import")
@click.argument("source")
@click.argument("name")
@_whose
@_max_size
@json_option
def import_archive(
    source: str, name: str, backend: str | None, max_size: str | None, as_json: bool
) -> None:
    """Import the archive SOURCE under NAME; - is standard input.

    It is a tar of a root directory, an OCI archive or layout, or what docker save writes,
    compressed or not. Another image of that name is replaced.
    """
    from rock_gym.cli_keepers import keeper

    path = "/dev/stdin" if source == "-" else source
    with keeper(backend or EMBEDDED) as images:
        _tell(images.take(path, name, _bytes(max_size)), as_json)


@image.command()
@click.argument("reference")
@click.argument("name", required=False)
@_whose
@_max_size
@click.option("--insecure", is_flag=True, help="Take a registry without or with a wrong TLS.")
@json_option
def pull(
    reference: str,
    name: str | None,
    backend: str | None,
    max_size: str | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Pull the image REFERENCE from its registry, and keep it under NAME.

    For embedded sandboxes skopeo does it. An engine pulls by itself: what is said of its registries
    in its own settings holds, and not --max-size and --insecure.
    """
    from rock_gym.cli_keepers import keeper

    if backend == "docker" and (insecure or max_size is not None):
        raise click.BadParameter("--insecure and --max-size are not for an engine")
    with keeper(backend or EMBEDDED) as images:
        made = images.pull(
            reference, name, _bytes(max_size), insecure, lambda line: click.echo(line, err=True)
        )
    _tell(made, as_json)


@image.command("rm")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_image)
@_whose
@json_option
def remove(names: tuple[str, ...], backend: str | None, as_json: bool) -> None:
    """Remove the images NAMES. One in use by a sandbox is refused."""
    from rock_gym.cli_keepers import keeper

    with keeper(backend or EMBEDDED) as images:
        for name in names:
            images.remove(name)
            if not as_json:
                click.echo(name)
    if as_json:
        print_json(names)


@image.command()
@click.argument("name", shell_complete=complete_image)
@click.argument("target", type=click.Path(dir_okay=False))
@_whose
@json_option
def export(name: str, target: str, backend: str | None, as_json: bool) -> None:
    """Write the image NAME to the file TARGET, as an archive that docker load takes, too."""
    from rock_gym.cli_keepers import keeper

    with keeper(backend or EMBEDDED) as images:
        images.export(name, target)
    if as_json:
        print_json({"name": name, "file": target})
    else:
        click.echo(target)


def _tell(made: Kept, as_json: bool) -> None:
    if as_json:
        print_json({"name": made.name, "backend": made.backend, "size_bytes": made.size_bytes})
    else:
        click.echo(f"{made.name}  {mib(made.size_bytes)}")


def _bytes(size: str | None) -> int:
    from rock_gym.images.archive import MAX_BYTES
    from rock_gym.spec import parse_size

    return MAX_BYTES if size is None else parse_size(size, "--max-size")


def _date(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
