"""The commands ``rock-gym ps`` and ``reap``: what runs on this machine, and what was left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from rock_gym.cli_options import backend_option
from rock_gym.cli_output import age, harmless, json_option, mib, print_json, print_table
from rock_gym.errors import BackendUnavailable

__all__ = ["ps", "reap"]


@click.command()
@backend_option("Only those of this backend.")
@json_option
def ps(backend: str | None, as_json: bool) -> None:
    """List the sandboxes of this machine, whoever started them.

    An embedded one goes by the id of its first process: kill that, and it is gone.
    """
    found = [*_embedded(backend), *_containers(backend)]
    if as_json:
        print_json(found)
        return
    rows = (
        (
            each["id"],
            each["backend"],
            each["state"],
            each["image"] or "-",
            each["lifetime"],
            f"{each['owner']} {harmless(each['owner_command'])[:40]}".strip(),
            "-" if each["age_s"] is None else age(each["age_s"]),
            "-" if each["memory_bytes"] is None else mib(each["memory_bytes"]),
        )
        for each in found
    )
    print_table(
        ("sandbox", "backend", "state", "image", "lifetime", "owner", "age", "memory"), rows
    )


def _embedded(backend: str | None) -> Iterable[dict[str, Any]]:
    if backend not in (None, "bubblewrap"):
        return
    from rock_gym.backends.running import list_running

    for each in list_running():
        yield {
            "id": str(each.pid),
            "backend": "bubblewrap",
            "state": "running",
            "image": None,
            "lifetime": "owner",
            "owner": "alive",
            "owner_pid": each.owner_pid,
            "owner_command": each.owner,
            "age_s": each.age_s,
            "processes": each.processes,
            "memory_bytes": each.memory_bytes,
        }


def _containers(backend: str | None) -> Iterable[dict[str, Any]]:
    if backend not in (None, "docker"):
        return
    from rock_gym.backends.docker import DockerBackend

    engine = DockerBackend()
    unknown = dict.fromkeys(("owner_pid", "age_s", "processes", "memory_bytes"))
    try:
        for each in engine.list():
            yield {**each, "backend": "docker", "owner_command": "", **unknown}
    except BackendUnavailable:
        if backend is not None:
            raise  # who asks for all backends may well have one alone
    finally:
        engine.close()


@click.command()
@backend_option("Only what this backend left.")
@json_option
def reap(backend: str | None, as_json: bool) -> None:
    """Remove what is left of owners that have died, and leases that have ended.

    These are containers, control groups, and layers of images that have no name.
    """
    removed = [*_reap_embedded(backend), *_reap_containers(backend)]
    if as_json:
        print_json(removed)
        return
    for name in removed:
        click.echo(name)


def _reap_embedded(backend: str | None) -> list[str]:
    if backend not in (None, "bubblewrap"):
        return []
    from rock_gym.backends.bubblewrap import BubblewrapBackend
    from rock_gym.images import Store

    removed = Store().sweep()
    embedded = BubblewrapBackend()
    try:
        removed += embedded.reap()
    except BackendUnavailable:
        if backend is not None:
            raise
    finally:
        embedded.close()
    return removed


def _reap_containers(backend: str | None) -> list[str]:
    if backend not in (None, "docker"):
        return []
    from rock_gym.backends.docker import DockerBackend

    engine = DockerBackend()
    try:
        return engine.reap()
    except BackendUnavailable:
        if backend is not None:
            raise
        return []
    finally:
        engine.close()
