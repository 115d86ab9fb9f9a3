"""The ``rock-gym completion`` command, and what shells complete beside commands and options."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

__all__ = ["SHELLS", "complete_backend", "complete_env", "complete_image", "completion"]

SHELLS = ("bash", "zsh", "fish")

_PROGRAM, _VARIABLE = "rock-gym", "_ROCK_GYM_COMPLETE"
_HOW = {
    "bash": 'eval "$(rock-gym completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(rock-gym completion zsh)" in ~/.zshrc, after compinit',
    "fish": "rock-gym completion fish > ~/.config/fish/completions/rock-gym.fish",
}


@click.command(
    epilog="\b\nTo have it always:\n"
    + "\n".join(f"  {shell:5} {how}" for shell, how in _HOW.items())
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, options, ids and images."""
    found = get_completion_class(shell)
    assert found is not None, "click knows them all"
    click.echo(found(ctx.find_root().command, {}, _PROGRAM, _VARIABLE).source())


def complete_env(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return ids of environments: gymnasium's, or GEM's when that has been begun."""
    from rock_gym.gem import catalog

    ids = (name for each in catalog.RECORDS for name in (each.gym_id, each.gem_id))
    found = [name for name in ids if name.startswith(incomplete)]
    # A shell takes a colon for the end of a word, so GEM's ids are there for who has got that far.
    return [CompletionItem(name) for name in found if ":" in incomplete or ":" not in name]


def complete_image(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return names of embedded images; an engine would have to be asked, which may take long."""
    from rock_gym.images import Store

    names = ["host", *(image.name.removesuffix(":latest") for image in Store().list())]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_backend(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return names of backends."""
    from rock_gym.backends import NAMES

    return [CompletionItem(name) for name in ("auto", *NAMES) if name.startswith(incomplete)]
