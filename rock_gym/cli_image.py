"""The ``rock-gym image`` commands: images of embedded sandboxes."""

from __future__ import annotations

import time

import click

from rock_gym.cli_output import json_option, print_json, print_table


@click.group()
def image() -> None:
    """Manage the images of embedded sandboxes."""


@image.command("list")
@json_option
def list_images(as_json: bool) -> None:
    """List the images there are, beside the built-in host."""
    from rock_gym.images import Store

    found = [
        {
            "name": one.name,
            "size_bytes": one.size_bytes,
            "layers": len(one.layers),
            "created": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.created_s)),
        }
        for one in Store().list()
    ]
    if as_json:
        print_json(found)
    else:
        rows = ([str(row[key]) for key in ("name", "layers", "created")] for row in found)
        sizes = [_size(int(str(row["size_bytes"]))) for row in found]
        print_table(
            ("name", "layers", "created", "size"),
            ([*row, size] for row, size in zip(rows, sizes, strict=True)),
        )


_max_size = click.option(
    "--max-size", metavar="SIZE", help="How much it may unpack to, such as 64g; by default 32g."
)


@image.command("import")
@click.argument("source")
@click.argument("name")
@_max_size
def import_archive(source: str, name: str, max_size: str | None) -> None:
    """Import the archive SOURCE under NAME; - is standard input.

    It is a tar of a root directory, an OCI archive or layout, or what docker save writes,
    compressed or not. Another image of that name is replaced.
    """
    from rock_gym.images.archive import import_image

    path = "/dev/stdin" if source == "-" else source
    made = import_image(path, name, max_bytes=_bytes(max_size))
    click.echo(f"{made.name}  {_size(made.size_bytes)}")


@image.command()
@click.argument("reference")
@click.argument("name", required=False)
@_max_size
@click.option("--insecure", is_flag=True, help="Take a registry without or with a wrong TLS.")
def pull(reference: str, name: str | None, max_size: str | None, insecure: bool) -> None:
    """Pull the image REFERENCE from its registry by skopeo, and import it under NAME."""
    from rock_gym.images.pull import pull_image

    made = pull_image(reference, name, max_bytes=_bytes(max_size), tls_verify=not insecure)
    click.echo(f"{made.name}  {_size(made.size_bytes)}")


@image.command("rm")
@click.argument("names", nargs=-1, required=True)
def remove(names: tuple[str, ...]) -> None:
    """Remove the images NAMES. One in use by a sandbox is refused."""
    from rock_gym.images import Store

    for name in names:
        Store().remove(name)
        click.echo(name)


@image.command()
@click.argument("name")
@click.argument("target", type=click.Path(dir_okay=False))
def export(name: str, target: str) -> None:
    """Write the image NAME to the file TARGET, as an OCI archive that docker load takes, too."""
    from rock_gym.images.export import export_image

    export_image(name, target)
    click.echo(target)


def _bytes(size: str | None) -> int:
    from rock_gym.images.archive import MAX_BYTES
    from rock_gym.spec import parse_size

    return MAX_BYTES if size is None else parse_size(size, "--max-size")


def _size(count: int) -> str:
    mib = 1 << 20
    return f"{count / mib:.1f} MiB"
