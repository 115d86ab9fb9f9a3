"""The command that serves ROCK's REST API."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

from rock_gym.errors import BackendUnavailable, SpecError

__all__ = ["serve"]

TOKEN_VARIABLE = "ROCK_GYM_TOKEN"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", default=8080, show_default=True, help="The port; 0 takes a free one.")
@click.option("--backend", default="auto", show_default=True, help="What runs the sandboxes.")
@click.option(
    "--image-alias",
    "aliases",
    metavar="NAME=IMAGE",
    multiple=True,
    help="Have clients that ask for NAME get IMAGE, such as python:3.11=host.",
)
@click.option(
    "--token",
    metavar="TOKEN",
    envvar=TOKEN_VARIABLE,
    help=f"What clients must show; better given by ${TOKEN_VARIABLE} or --token-file.",
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with the token in it.",
)
@click.option(
    "--allow-host", "hosts", metavar="NAME", multiple=True, help="Another name of this server."
)
@click.option("--strict", is_flag=True, help="Failures have real HTTP statuses for all clients.")
@click.option(
    "--pull",
    type=click.Choice(["never", "missing"]),
    default="never",
    show_default=True,
    help="When the engine fetches images.",
)
@click.option("--network", default="none", show_default=True, help="The sandboxes' network.")
@click.option(
    "--adopt",
    is_flag=True,
    help="Containers outlive a killed server, and the next one takes them over.",
)
@click.option("--state", metavar="FILE", help="Where ids are remembered; by default in your home.")
@click.option("--warm", default=1, show_default=True, help="Spares for each kind that is in use.")
@click.option(
    "--gem-import",
    "gem_imports",
    metavar="MODULE",
    multiple=True,
    help="A module that registers environments with GEM.",
)
@click.option(
    "--gem-path",
    metavar="DIRECTORY",
    multiple=True,
    help="Where such modules are; sandboxes can read it.",
)
@click.option("--max-sandboxes", default=2000, show_default=True, help="How many at once.")
@click.option("--max-threads", default=1024, show_default=True, help="Blocking calls at once.")
@click.option("--idle", default=1800.0, show_default=True, help="Stop the unused after so many s.")
@click.option("--max-body", default=16, show_default=True, help="The longest JSON body, in MiB.")
@click.option("--max-upload", default=1024, show_default=True, help="The longest upload, in MiB.")
@click.option("--verbose", "-v", is_flag=True, help="Log a line for each request.")
def serve(
    host: str,
    port: int,
    backend: str,
    aliases: tuple[str, ...],
    token: str | None,
    token_file: Path | None,
    hosts: tuple[str, ...],
    strict: bool,
    pull: str,
    network: str,
    adopt: bool,
    state: str | None,
    warm: int,
    gem_imports: tuple[str, ...],
    gem_path: tuple[str, ...],
    max_sandboxes: int,
    max_threads: int,
    idle: float,
    max_body: int,
    max_upload: int,
    verbose: bool,
) -> None:
    """Serve ROCK's REST API, with sandboxes and environments of this machine.

    Prints its URL once it answers. Ctrl-C ends it and everything that was started by it.
    """
    try:
        from rock_gym.server.serve import serve as run
        from rock_gym.server.settings import LOOPBACK, MIB, Settings
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"the server needs {error.name}, which is not installed; install it with: "
            "pip install 'rock-gym[server]'"
        ) from error
    _begin_to_log(verbose)
    settings = Settings(
        backend=backend,
        aliases=_read_aliases(aliases),
        token=token_file.read_text().strip() if token_file is not None else token,
        hosts=(*LOOPBACK, host, *hosts),
        strict=strict,
        pull=pull,
        network=network,
        adopt=adopt,
        state=state if state is not None else _default_state(port),
        warm=warm,
        gem_imports=gem_imports,
        gem_path=gem_path,
        max_sandboxes=max_sandboxes,
        max_threads=max_threads,
        idle_s=idle,
        max_body_bytes=max_body * MIB,
        max_upload_bytes=max_upload * MIB,
    )
    run(settings, host, port, lambda url: click.echo(f"rock-gym serves at {url}"))


def _begin_to_log(verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    # That it keeps only so many connections to the engine open is no news for an operator.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def _read_aliases(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, sign, image = pair.partition("=")
        if not (name and sign and image):
            raise SpecError(f"an alias is NAME=IMAGE, such as python:3.11=host, not {pair!r}")
        found[name] = image
    return found


def _default_state(port: int) -> str | None:
    """Servers on other ports are other servers; one on any port is nobody's successor."""
    if port == 0:
        return None
    import platformdirs

    return os.path.join(platformdirs.user_state_dir("rock-gym"), f"server-{port}.sqlite")
