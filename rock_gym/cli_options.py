"""Options and arguments that several commands of ``rock-gym`` have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rock_gym.cli_completion import complete_backend, complete_image

if TYPE_CHECKING:
    from rock_gym.gem.catalog import Record

__all__ = ["backend_option", "find_env", "sandbox_options", "started_with"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_KEEPERS = ("bubblewrap", "docker")

_OPTIONS = (
    click.option(
        "--image",
        metavar="NAME",
        shell_complete=complete_image,
        help="The image; by default the backend's own.",
    ),
    click.option(
        "--backend",
        default="auto",
        show_default=True,
        shell_complete=complete_backend,
        help="What runs the sandbox.",
    ),
    click.option("--memory", metavar="SIZE", help="Such as 2g."),
    click.option("--cpus", metavar="N", help="Such as 2 or 0.5."),
)


def sandbox_options(command: _Command) -> _Command:
    """Give a command the options that say what sandboxes are like: ``image`` to ``cpus``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def backend_option(text: str) -> Callable[[_Command], _Command]:
    """Return an option that names a backend with containers or images of its own, or none."""
    return click.option("--backend", type=click.Choice(_KEEPERS), help=text)


def started_with(
    image: str | None, backend: str, memory: str | None, cpus: str | None
) -> dict[str, Any]:
    """Return what was asked for by ``sandbox_options``, as arguments of an environment."""
    given = {"image": image, "memory": memory, "cpus": cpus}
    asked = {name: value for name, value in given.items() if value is not None}
    return asked if backend == "auto" else {**asked, "backend": backend}


def find_env(name: str) -> Record:
    """Return the environment of an id, gymnasium's or GEM's.

    Raises:
        click.ClickException: If there is none; says which may be meant.
    """
    from rock_gym.gem import catalog

    for record in catalog.RECORDS:
        if name in (record.gym_id, record.gem_id):
            return record
    meant = catalog.suggest(name)
    advice = f"did you mean {' or '.join(meant)}? " if meant else ""
    raise click.ClickException(f"no environment {name!r}: {advice}see all with: rock-gym envs")
