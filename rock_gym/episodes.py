"""Episodes played by a policy, one after the other or many at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rock_gym.envs.vector_slots import UNUSABLE, kind_of
from rock_gym.errors import RockGymError
from rock_gym.wrappers.rows import split_infos

if TYPE_CHECKING:
    import gymnasium as gym

__all__ = ["GIVEN_UP", "Episode", "Policy", "Watch", "play", "play_many"]

Policy = Callable[[str, dict[str, Any], Any, int], "str | None"]
"""Gives the action for an observation, its info, the environment and the turn; None gives up."""

Watch = Callable[[int, "Episode", "str | None"], None]
"""Is told where an episode is played, and the action of each turn; None when it begins."""

GIVEN_UP = "given up"
_ENDS = ("terminated", "truncated", GIVEN_UP)


@dataclass
class Episode:
    """What came of an episode.

    Attributes:
        episode: Its number.
        seed: Its seed, which decides what a random policy draws, too.
        steps: How many turns were taken.
        total: The sum of its rewards.
        end: ``"terminated"``, ``"truncated"``, ``"given up"``, or the kind of a fault.
        took_s: How many seconds it took.
    """

    episode: int
    seed: int
    steps: int = 0
    total: float = 0.0
    end: str = ""
    took_s: float = 0.0

    @property
    def faulty(self) -> bool:
        """Whether a fault of the machinery ended it."""
        return self.end not in _ENDS

    def told(self) -> dict[str, Any]:
        """As JSON."""
        facts = asdict(self)
        facts["return"] = facts.pop("total")
        return facts


def _look_away(slot: int, episode: Episode, action: str | None) -> None:
    """Take note of nothing."""


def play(
    env: gym.Env[Any, Any], policy: Policy, seeds: Sequence[int], watch: Watch = _look_away
) -> Iterator[Episode]:
    """Play one episode after the other.

    Args:
        env: The environment.
        policy: What plays.
        seeds: One for each episode.
        watch: Is told what happens.

    Yields:
        The episodes.

    Raises:
        RockGymError: If the environment does not work here at all; a fault ends an episode.
    """
    for number, seed in enumerate(seeds):
        episode, begun_s = Episode(number, seed), perf_counter()
        watch(0, episode, None)
        _play_episode(env, policy, episode, watch)
        episode.took_s = round(perf_counter() - begun_s, 4)
        yield episode


def _play_episode(env: Any, policy: Policy, episode: Episode, watch: Watch) -> None:
    try:
        observation, info = env.reset(seed=episode.seed)
        env.unwrapped.action_space.seed(episode.seed)
        while not episode.end:
            action = policy(observation, info, env.unwrapped, episode.steps)
            if action is None:
                episode.end = GIVEN_UP
                return
            episode.steps += 1
            watch(0, episode, action)
            observation, reward, terminated, truncated, info = env.step(action)
            episode.total += float(reward)
            episode.end = "terminated" if terminated else "truncated" if truncated else ""
    except UNUSABLE:
        raise
    except RockGymError as error:
        episode.end = kind_of(error)


def play_many(
    envs: Any, policy: Policy, seeds: Sequence[int], watch: Watch = _look_away
) -> Iterator[Episode]:
    """Play many at the same time, each at its own pace.

    Args:
        envs: A ``SandboxVectorEnv``, or a recording of one, whose autoreset is disabled.
        policy: What plays.
        seeds: One for each episode.
        watch: Is told what happens.

    Yields:
        The episodes, in the order in which they end.
    """
    waiting = deque(Episode(number, seed) for number, seed in enumerate(seeds))
    playing: dict[int, Episode] = {}
    _begin_next(envs, range(envs.num_envs), waiting, playing, watch)
    while playing:
        moves, ended = _answer(envs, policy, playing)
        for number, action in moves.items():
            watch(number, playing[number], action)
        if moves:
            envs.send(list(moves.values()), list(moves))
        done = [playing.pop(number) for number in ended]
        _begin_next(envs, ended, waiting, playing, watch)
        for episode in done:
            episode.took_s = round(perf_counter() - episode.took_s, 4)
            yield episode


def _answer(
    envs: Any, policy: Policy, playing: dict[int, Episode]
) -> tuple[dict[int, str], list[int]]:
    """Take in what has come; returns the moves that follow, and whose episodes have ended."""
    observations, rewards, terminated, truncated, infos = envs.recv(min_envs=1)
    numbers = infos.pop("env_id").tolist()
    own, _ = split_infos(infos, len(numbers))
    moves: dict[int, str] = {}
    for row, number in enumerate(numbers):
        episode = playing[number]
        episode.total += float(rewards[row])
        if "fault" in own[row]:
            episode.end = own[row]["fault"]
        elif terminated[row] or truncated[row]:
            episode.end = "terminated" if terminated[row] else "truncated"
        else:
            env = envs.envs[number]
            action = policy(observations[row], own[row], env, episode.steps)
            if action is None:
                episode.end = GIVEN_UP
            else:
                episode.steps += 1
                moves[number] = action
    return moves, [number for number in numbers if playing[number].end]


def _begin_next(
    envs: Any,
    numbers: Iterable[int],
    waiting: deque[Episode],
    playing: dict[int, Episode],
    watch: Watch,
) -> None:
    seeds: list[int | None] = [None] * envs.num_envs
    for number, episode in zip(numbers, list(waiting), strict=False):
        waiting.popleft()
        episode.took_s = perf_counter()
        playing[number], seeds[number] = episode, episode.seed
        envs.envs[number].action_space.seed(episode.seed)
        watch(number, episode, None)
    begun = [number for number, seed in enumerate(seeds) if seed is not None]
    if begun:
        envs.send_reset(begun, seeds)
