"""Who plays the environments of a vector: workers in sandboxes, or threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from rock_gym.envs.arguments import check_count, check_timeout
from rock_gym.envs.gem_env import GemEnv
from rock_gym.envs.vector_arguments import pick_ids
from rock_gym.envs.vector_gem import GemPlayer
from rock_gym.envs.vector_leases import Leases, at_once
from rock_gym.envs.vector_packs import Crew, PackedPlayer
from rock_gym.envs.vector_poller import Poller
from rock_gym.envs.vector_slots import Player
from rock_gym.envs.vector_speculation import Pace, Speculation
from rock_gym.envs.vector_threads import ThreadPlayer
from rock_gym.errors import SpecError
from rock_gym.gem.places import seats_per_sandbox

__all__ = ["Cast", "cast_functions", "cast_gem"]

# Seconds to tens of milliseconds for a reset, and next to nothing for a step.
_SLOW_RESETS = (
    "game:Sokoban-",
    "game:Sudoku-",
    "rg:sokoban",
    "rg:futoshiki",
    "rg:knight_swap",
    "rg:zebra_puzzles",
    "rg:rush_hour",
)

_STEP_TIMEOUT_S = 30.0
_RESET_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays.

    Attributes:
        players: One for each environment.
        texts: Whether observations and actions are texts.
        leases: Where workers come from, if they come from somewhere.
        pace: Told when the policy gets answers, and when it acts.
    """

    players: tuple[Player, ...]
    texts: bool
    leases: Leases | None = None
    pace: Pace = field(default_factory=Pace)


def cast_gem(
    poller: Poller,
    gem_id: str | None,
    gem_ids: Sequence[str] | None,
    num_envs: int | None,
    group_size: int,
    speculate: bool | None,
    envs_per_process: int,
    kwargs: dict[str, Any],
) -> Cast:
    """Return players of GEM environments. Starts nothing.

    Raises:
        SpecError: If an argument makes no sense.
    """
    check_count("group_size", group_size)
    ids = pick_ids(gem_id, gem_ids, num_envs, group_size)
    step_s = check_timeout("step_timeout", kwargs.get("step_timeout", _STEP_TIMEOUT_S))
    reset_s = check_timeout("reset_timeout", kwargs.get("reset_timeout", _RESET_TIMEOUT_S))
    check_count("envs_per_process", envs_per_process)
    seats = min(seats_per_sandbox(name, kwargs.get("envs_per_sandbox")) for name in ids)
    leases = Leases(min(len(ids), at_once(seats)))
    players: list[Player] = []
    if envs_per_process > 1:
        _check_packing(envs_per_process, seats, speculate)
    crew, pace = None, Pace()
    for number, name in enumerate(ids):
        env = GemEnv(name, **kwargs)
        if envs_per_process > 1:
            if crew is None or number % envs_per_process == 0:
                crew = Crew(poller, seats // envs_per_process, step_s, reset_s)
            players.append(PackedPlayer(number, env, poller, leases, crew, reset_s))
            continue
        ahead = None
        if speculate or (speculate is None and name.startswith(_SLOW_RESETS)):
            ahead = Speculation(None if speculate else pace)
        players.append(GemPlayer(number, env, poller, leases, ahead, step_s, reset_s))
    if group_size > 1:
        _align(players, group_size)
    return Cast(tuple(players), True, leases, pace)


def _check_packing(envs_per_process: int, seats: int, speculate: bool | None) -> None:
    if envs_per_process > seats:
        raise SpecError(
            f"envs_per_process={envs_per_process} is more than share a sandbox, which is {seats}: "
            "where actions are executed, environments must not share a process; where you know "
            "that they are not, give envs_per_sandbox= too"
        )
    if speculate:
        raise SpecError(
            "speculative_reset= is for environments with a process each: leave out "
            "envs_per_process="
        )


def _align(players: Sequence[Player], group_size: int) -> None:
    """Have the environments of a group draw the same seeds, also when nobody gives any."""
    entropy = np.random.SeedSequence().generate_state(len(players) // group_size)
    for number, player in enumerate(players):
        assert isinstance(player.env, GemEnv)
        player.env.draw_seed(int(entropy[number // group_size]))


def cast_functions(
    poller: Poller,
    env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
    *,
    step_timeout: float | None = None,
    reset_timeout: float | None = None,
    max_concurrency: int | None = None,
    shared_memory: bool = False,
    context: str | None = None,
    daemon: bool = True,
    worker: None = None,
) -> Cast:
    """Return players of what functions make, each made in its thread, one after the other.

    Args:
        poller: Told when there is an answer.
        env_fns: The functions.
        step_timeout: Seconds that a step may take.
        reset_timeout: Seconds that a reset may take.
        max_concurrency: How many may be stepped or reset at once.
        shared_memory: Of no use: threads share all there is.
        context: Of no use, as there are no processes.
        daemon: Of no use, as above.
        worker: Not supported.

    Raises:
        SpecError: If an argument makes no sense.
        Exception: Whatever one of the functions raises.
    """
    if worker is not None:
        raise SpecError("worker= is for processes, and these environments run in threads")
    if not env_fns:
        raise SpecError("env_fns is empty: there is nothing to play")
    step_s = check_timeout("step_timeout", step_timeout)
    reset_s = check_timeout("reset_timeout", reset_timeout)
    gate = None
    if max_concurrency is not None:
        gate = threading.Semaphore(check_count("max_concurrency", max_concurrency))
    players: list[ThreadPlayer] = []
    try:
        for number, env_fn in enumerate(env_fns):
            players.append(ThreadPlayer(number, env_fn, poller, gate, step_s, reset_s))
    except BaseException:
        for player in players:
            player.close()
        raise
    return Cast(tuple(players), False)
