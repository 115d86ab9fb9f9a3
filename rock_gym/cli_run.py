"""The ``rock-gym run`` command: episodes of an environment, played by a policy."""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from rock_gym.cli_completion import complete_env
from rock_gym.cli_live import Board, screen
from rock_gym.cli_options import find_env, sandbox_options, started_with
from rock_gym.cli_output import json_option, print_json, print_table

if TYPE_CHECKING:
    from rock_gym.episodes import Episode, Policy
    from rock_gym.gem.catalog import Record

__all__ = ["run"]


@click.command()
@click.argument("env_id", metavar="ID", shell_complete=complete_env)
@click.option("-n", "--episodes", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--policy",
    default="random",
    show_default=True,
    metavar="MODULE:FUNCTION",
    help="Given an observation and its info, returns an action, or None to give up.",
)
@click.option(
    "--actions", type=click.File("r"), help="Play the lines of this file instead; - is stdin."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the first episode.")
@click.option("--num-envs", type=click.IntRange(1), default=1, help="How many at the same time.")
@click.option("--max-steps", type=click.IntRange(1), help="After how many to cut an episode off.")
@click.option("--jsonl", type=click.File("w", lazy=False), help="Write a line for each episode.")
@click.option("--record", metavar="FILE", help="Record a cassette for rock-gym replay.")
@sandbox_options
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    /,
    env_id: str,
    episodes: int,
    policy: str,
    actions: Any,
    seed: int,
    num_envs: int,
    max_steps: int | None,
    jsonl: Any,
    record: str | None,
    as_json: bool,
    **sandbox: Any,
) -> None:
    """Play episodes of the environment ID, and tell what came of them.

    The random policy makes legal-looking moves. The same seed gives the same episodes, however many
    run at the same time. Exit code 1 if one ended by a fault of the machinery.
    """
    from rock_gym.episodes import play as play_one
    from rock_gym.episodes import play_many

    found = find_env(env_id)
    chosen = _find_policy(policy) if actions is None else _script(actions)
    options = started_with(**sandbox)
    if max_steps is not None:
        options["max_episode_steps"] = max_steps
    seeds = [seed + number for number in range(episodes)]
    num_envs = min(num_envs, episodes)
    begun_s = perf_counter()
    done: list[Episode] = []
    board = Board(episodes)
    with ExitStack() as stack:
        env = _make(stack, found, num_envs, record, options)
        stack.enter_context(screen(board, sys.stderr.isatty()))
        play = play_one if num_envs == 1 else play_many
        for episode in play(env, chosen, seeds, board):
            board.end(episode)
            done.append(episode)
            if jsonl is not None:
                jsonl.write(json.dumps(episode.told()) + "\n")
                jsonl.flush()
    done.sort(key=lambda each: each.episode)
    faults = sum(each.faulty for each in done)
    summary = _summary(found, done, faults, perf_counter() - begun_s)
    if as_json:
        print_json({**summary, "episodes": [each.told() for each in done]})
    elif jsonl is None or jsonl.name != "<stdout>":
        _print(done, summary)
    if faults:
        click.echo(f"{faults} of {len(done)} episodes ended by a fault", err=True)
        ctx.exit(1)


def _make(
    stack: ExitStack, found: Record, num_envs: int, record: str | None, options: dict[str, Any]
) -> Any:
    import gymnasium as gym

    env: Any
    if num_envs == 1:
        env = gym.make(found.gym_id, **options)
    else:
        env = gym.make_vec(found.gym_id, num_envs=num_envs, autoreset_mode="Disabled", **options)
    stack.callback(lambda: env.close())
    if record is not None:
        from rock_gym.wrappers import Record

        env = Record(env, record)
    return env


def _find_policy(name: str) -> Policy:
    if name == "random":
        return lambda observation, info, env, turn: str(env.sample_random_action())
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise click.BadParameter(f"--policy takes random or MODULE:FUNCTION, not {name!r}")
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise
        raise click.BadParameter(f"--policy: no module {module_name!r} here") from error
    except AttributeError as error:
        raise click.BadParameter(f"--policy: {module_name} has no {function_name}") from error
    return lambda observation, info, env, turn: function(observation, info)


def _script(file: Any) -> Policy:
    actions = [line.rstrip("\n") for line in file if line.strip()]
    return lambda observation, info, env, turn: actions[turn] if turn < len(actions) else None


def _summary(found: Record, done: list[Episode], faults: int, took_s: float) -> dict[str, Any]:
    steps = sum(each.steps for each in done)
    return {
        "id": found.gym_id,
        "mean_return": sum(each.total for each in done) / len(done),
        "steps": steps,
        "faults": faults,
        "took_s": round(took_s, 4),
        "steps_per_s": round(steps / took_s, 1),
    }


def _print(done: list[Episode], summary: dict[str, Any]) -> None:
    print_table(
        ("episode", "seed", "steps", "return", "end", "seconds"),
        (
            (
                str(each.episode),
                str(each.seed),
                str(each.steps),
                f"{each.total:+.3f}",
                each.end,
                f"{each.took_s:.3f}",
            )
            for each in done
        ),
    )
    click.echo(
        f"{len(done)} episodes, {summary['steps']} steps, mean return "
        f"{summary['mean_return']:+.3f}, {summary['steps_per_s']} steps/s with the start"
    )
