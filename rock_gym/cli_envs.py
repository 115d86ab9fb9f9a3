"""The ``rock-gym envs`` command: which environments there are, and one of them played by hand."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Any

import click

from rock_gym.cli_completion import complete_env
from rock_gym.cli_options import find_env, sandbox_options, started_with
from rock_gym.cli_output import harmless, json_option, print_json, print_table

if TYPE_CHECKING:
    from rock_gym.gem.catalog import Record

__all__ = ["envs"]

_NEEDS = {
    "broken": "no: broken in GEM",
    "data set": "no: needs a data set",
    "pandas": "no: needs rock-gym[words]",
    "words": "no: needs rock-gym[words]",
}
_QUIT = ("q", "quit", "exit")


@click.command()
@click.argument("pattern", default="")
@click.option("--family", metavar="NAME", help="Only those of a family or category, such as math.")
@click.option("--offline", is_flag=True, help="Only those that a plain installation can play.")
@click.option(
    "--try",
    "chosen",
    metavar="ID",
    shell_complete=complete_env,
    help="Play this one by hand instead of listing.",
)
@click.option("--seed", type=int, default=None, help="With --try: the seed of the first episode.")
@sandbox_options
@json_option
def envs(
    pattern: str,
    family: str | None,
    offline: bool,
    chosen: str | None,
    seed: int | None,
    as_json: bool,
    **sandbox: Any,
) -> None:
    """List environments, or those with PATTERN in one of their ids.

    PATTERN may be a part of an id, or a glob such as 'game:*-easy'. The options about sandboxes are
    for --try.
    """
    if chosen is not None:
        _play(find_env(chosen), seed, started_with(**sandbox))
        return
    from rock_gym.gem import catalog

    found = [
        record
        for record in catalog.RECORDS
        if _matches(record, pattern.lower())
        and family in (None, record.family, record.category)
        and (record.offline or not offline)
    ]
    if not found:
        raise click.ClickException(_nothing(pattern, family, offline))
    if as_json:
        print_json([_row(record) for record in found])
        return
    rows = (
        (each.gym_id, each.gem_id, "yes" if each.needs is None else _NEEDS[each.needs])
        for each in found
    )
    print_table(("gymnasium.make", "rock_gym.make", "offline"), rows)


def _matches(record: Record, pattern: str) -> bool:
    ids = record.gym_id.lower(), record.gem_id.lower()
    if any(sign in pattern for sign in "*?["):
        return any(fnmatch.fnmatchcase(each, pattern) for each in ids)
    return any(pattern in each for each in ids)


def _nothing(pattern: str, family: str | None, offline: bool) -> str:
    what = [f"no id holds {pattern!r}"] if pattern else ["no environment is left"]
    what += [f"with --family {family}"] if family is not None else []
    what += ["with --offline"] if offline else []
    return f"{' '.join(what)}; see all with: rock-gym envs"


def _row(record: Record) -> dict[str, Any]:
    return {
        "id": record.gym_id,
        "gem_id": record.gem_id,
        "category": record.category,
        "family": record.family,
        "offline": record.offline,
        "needs": record.needs,
        "executes_actions": record.executes_actions,
    }


def _play(record: Record, seed: int | None, options: dict[str, Any]) -> None:
    """Have a person play at the terminal, until they have had enough."""
    import gymnasium as gym

    with gym.make(record.gym_id, **options) as env:
        opening, closing = _wrapping(env.action_space.sample())
        said = f"It goes into {opening}{closing} unless it is there. " if opening else ""
        click.echo(f"Type a move. {said}Enter alone makes one for you, q ends.\n")
        more = True
        while more:
            observation, _ = env.reset(seed=seed)
            env.action_space.seed(seed)
            seed = None
            click.echo(harmless(observation))
            more = _play_episode(env, opening, closing) and _ask("\nAgain? [Y/n]") in (
                "",
                "y",
                "yes",
            )


def _play_episode(env: Any, opening: str, closing: str) -> bool:
    """Play until the episode is over; False if the person ends it before."""
    total, over, turn = 0.0, False, 0
    while not over:
        turn += 1
        typed = _ask(f"\n{turn}>")
        if typed is None or typed.lower() in _QUIT:
            return False
        action = typed or env.unwrapped.sample_random_action()
        if opening and opening.strip() not in action:
            action = f"{opening}{action}{closing}"
        if action != typed:
            click.secho(harmless(action), dim=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        over = terminated or truncated
        click.echo(harmless(observation))
        click.secho(f"reward {float(reward):+g}", fg="green" if reward > 0 else None)
    click.echo(f"{'over' if terminated else 'cut off'} after {turn} turns, return {total:+g}")
    return True


def _ask(question: str) -> str | None:
    """Return what a person types, or None at the end of input."""
    try:
        typed: str = click.prompt(question, default="", show_default=False, prompt_suffix=" ")
    except click.Abort:
        click.echo()
        return None
    return typed.strip()


def _wrapping(sample: str) -> tuple[str, str]:
    """Return what stands around a move, learned from one."""
    found = re.fullmatch(r"(.*?(?:\\boxed\{|<answer>)).*?(\}|</answer>)", sample, re.DOTALL)
    return (found[1], found[2]) if found else ("", "")
