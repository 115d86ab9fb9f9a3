"""Rows of the table about many environments at once.

The peers are gymnasium's own vectorizers and gem's over the same environments without sandboxes,
each in a process of its own, which has imported gem before it forks.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.games import (
    GUESS,
    SLEEPER,
    SLEEPER_ID,
    SOKOBAN,
    TILES,
    Unsandboxed,
    actions_of,
    nap,
    steps_of,
)
from benchmarks.peers.process import Peer, Peers
from benchmarks.peers.vectors import GEM_ASYNC, GEM_SYNC, GYM_ASYNC, GYM_SYNC
from benchmarks.table import Samples, Side, compare, faster, of_floor, repeat, row, share
from rock_gym.envs import SandboxVectorEnv

_SETTLING = 4

ASYNC = "AsyncVectorEnv"
GEM_SYNC_NAME = "gem's SyncVectorEnv"
OTHERS = {
    ASYNC: GYM_ASYNC,
    "SyncVectorEnv": GYM_SYNC,
    "gem's AsyncVectorEnv (threads)": GEM_ASYNC,
}


def lockstep(
    gem_id: str, number: int, envs_per_process: int, peers: Mapping[str, str], count: int
) -> Samples:
    """Compare steps of all at once with those of other vectorizers, each in a process of its own.

    Args:
        gem_id: The game.
        number: How many of it.
        envs_per_process: How many of ours share a process.
        peers: Kinds of ``benchmarks.peers.vectors``, by the names that rows call them.
        count: How many samples of ours.
    """
    with ExitStack() as stack:
        # The floor is no peer that may be missing: gem is there, or ours does not run either.
        floor = stack.enter_context(closing(Peer("vectors", GEM_SYNC, gem_id, str(number))))
        beside = Peers(stack)
        sides = {}
        for name, kind in peers.items():
            peer = beside.start(name, "vectors", kind, gem_id, str(number))
            if peer is not None:
                sides[name] = _settled(partial(peer.sample, "step"))
        envs = stack.enter_context(
            closing(
                SandboxVectorEnv(
                    gem_id=gem_id,
                    num_envs=number,
                    envs_per_process=envs_per_process,
                    backend="bubblewrap",
                )
            )
        )
        envs.reset(seed=1)
        ours = _settled(repeat(steps_of(envs, gem_id, number)))
        floor_side = _settled(partial(floor.sample, "step"))
        return compare(count, ours, floor_side, sides, beside.missing)


def _settled(sample: Callable[[int], list[float]]) -> Side:
    """Return a side that takes turns of ten steps, after some by which its caches are its own."""
    return Side(lambda count: sample(count + _SETTLING)[_SETTLING:], 10)


def growth(count: int) -> Samples:
    """Seconds for each environment's share of a step: of many, and of eight."""
    many, few = 8 * min(128, max(2, count)), 8
    with ExitStack() as stack:
        sides = []
        for number in (many, few):
            envs = SandboxVectorEnv(gem_id=GUESS, num_envs=number, backend="bubblewrap")
            stack.enter_context(closing(envs)).reset(seed=1)
            sides.append(Side(_each(steps_of(envs, GUESS, number), number), 5))
        samples = compare(count, sides[0], sides[1])
        samples.note = f"{many} environments"
        return samples


def _each(step: Callable[[], float], number: int) -> Callable[[int], list[float]]:
    return repeat(lambda: step() / number)


@contextmanager
def sleepers(number: int) -> Iterator[SandboxVectorEnv]:
    """Environments whose steps take as long as the action says."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "sleeper.py").write_text(SLEEPER)
        Path(directory).chmod(0o755)  # sandboxes of root run as another user
        envs = SandboxVectorEnv(
            gem_id=SLEEPER_ID,
            num_envs=number,
            imports=["sleeper"],
            python_path=[directory],
            envs_per_sandbox=64,
            backend="bubblewrap",
        )
        with closing(envs):
            envs.reset(seed=1)
            yield envs


def stragglers(count: int) -> Samples:
    """Seconds per step by recv, in lockstep, and what it would be if none waited for another."""
    number = 64
    drawn = random.Random(2)
    with sleepers(number) as envs, ExitStack() as stack:
        beside = Peers(stack)
        peer = beside.start(ASYNC, "vectors", GYM_ASYNC, SLEEPER_ID, str(number))
        naps = [nap(drawn) for _ in range(number)]
        asleep: list[float] = []
        envs.send(naps)

        def play(steps: int) -> tuple[float, float]:
            """Seconds for each of at least so many steps, and what they slept."""
            done = slept = 0.0
            start = time.perf_counter()
            while done < steps:
                *_, infos = envs.recv(min_envs=8)
                woken = infos["env_id"].tolist()
                done += len(woken)
                slept += sum(float(naps[index]) for index in woken)
                for index in woken:
                    naps[index] = nap(drawn)
                envs.send([naps[index] for index in woken], woken)
            return (time.perf_counter() - start) / done, slept / done

        def ours() -> float:
            # During the others' turn all have woken. That sleep is not to count as free.
            play(2 * number)
            taken, slept = play(20 * number)
            asleep.append(slept / number)
            return taken

        sides = {ASYNC: Side(_alike(partial(peer.sample, "step"), number), 5)} if peer else {}
        # The ideal of each turn is known from what was drawn in it.
        floor = Side(lambda _: asleep[-1:])
        samples = compare(count, Side(repeat(ours)), floor, sides, beside.missing)
        envs.recv()
        # Whichever side began a turn: an ideal for each of ours.
        samples.floor = asleep[-len(samples.ours) :]
        return samples


def _alike(steps: Callable[[int], list[float]], number: int) -> Callable[[int], list[float]]:
    return lambda count: [taken / number for taken in steps(count)]


def lockstep_stragglers(count: int) -> Samples:
    """The same by step, which waits for the slowest."""
    number = 64
    drawn = random.Random(2)
    samples = Samples()
    with sleepers(number) as envs:
        for _ in range(max(1, count)):
            naps = [nap(drawn) for _ in range(number)]
            start = time.perf_counter()
            envs.step(naps)
            samples.ours.append((time.perf_counter() - start) / number)
            samples.floor.append(sum(map(float, naps)) / number / number)
    return samples


class OneProcess:
    """The same episodes by gem in this process, one environment after the other."""

    def __init__(self, gem_id: str, number: int) -> None:
        self._envs = [Unsandboxed(gem_id) for _ in range(number)]
        self._over = [False] * number

    def reset(self, seed: int) -> None:
        """Begin."""
        for index, env in enumerate(self._envs):
            env.reset(seed=seed + index)

    def step(self, actions: list[str]) -> None:
        """Step each, or reset it after the end of an episode."""
        state = random.getstate(), np.random.get_state()
        for index, (env, action) in enumerate(zip(self._envs, actions, strict=True)):
            if self._over[index]:
                env.reset()
                self._over[index] = False
            else:
                _, _, terminated, truncated, _ = env.step(action)
                self._over[index] = terminated or truncated
        random.setstate(state[0])
        np.random.set_state(state[1])


def slow_resets(count: int, envs_per_process: int = 1) -> Samples:
    """Seconds until each has taken so many turns, most of which go into resets."""
    number, turns = 64, max(2, count)
    moves = list(itertools.islice(actions_of(SOKOBAN, number), turns))
    plain = OneProcess(SOKOBAN, number)
    plain.reset(seed=1)
    envs = SandboxVectorEnv(
        gem_id=SOKOBAN,
        num_envs=number,
        envs_per_process=envs_per_process,
        backend="bubblewrap",
    )
    with closing(envs):
        envs.reset(seed=1)
        start = time.perf_counter()
        each_at_its_own_pace(envs, moves)
        middle = time.perf_counter()
        for actions in moves:
            plain.step(actions)
        return Samples([middle - start], [time.perf_counter() - middle])


def each_at_its_own_pace(envs: SandboxVectorEnv, moves: list[list[str]]) -> None:
    """Take the same turns as ``step`` would, but let none wait for another."""
    taken = [0] * envs.num_envs
    again = list(range(envs.num_envs))
    while min(taken) < len(moves):
        envs.send([moves[taken[index]][index] for index in again], again)
        woken = envs.recv(min_envs=8)[-1]["env_id"].tolist()
        for index in woken:
            taken[index] += 1
        again = [index for index in woken if taken[index] < len(moves)]


LOCKSTEP = "ours in embedded sandboxes, {}; the others in none"

for _title, _gem_id in (("GuessTheNumber", GUESS), ("2048", TILES)):
    for _number in (8, 64, 256):
        _peers = OTHERS if _number == 64 else {ASYNC: GYM_ASYNC}
        row(
            f"vector step, {_number} {_title}, one process each",
            what="`envs.step` of all, each in a process of its own, with its own random state",
            isolation=LOCKSTEP.format("64 of them in one"),
            peers=list(_peers),
            floor=GEM_SYNC_NAME,
            count=max(100, 12_800 // _number),
            bars=[faster(1.5, 2)],
            unit="us",
        )(partial(lockstep, _gem_id, _number, 1, _peers))
    row(
        f"vector step, 64 {_title}, packed",
        what="`envs.step` of all, `envs_per_process=16`",
        isolation=LOCKSTEP.format("64 of them in one, 16 in a process"),
        peers=list(OTHERS),
        floor=GEM_SYNC_NAME,
        count=200,
        bars=[faster(4), share(aim=1)],
        unit="us",
    )(partial(lockstep, _gem_id, 64, 16, OTHERS))

row(
    "growth: vector step per env, 1 024",
    what="`envs.step` of 1 024 GuessTheNumber, one process each, divided by their number",
    isolation="embedded sandboxes on both sides, 64 environments in one",
    floor="ours, of 8",
    count=128,
    bars=[of_floor(1.5, 1.1)],
    unit="us",
)(growth)
row(
    "stragglers: step of one of 64 by `recv`",
    what="steps of 20 ms, 5 % of them 200 ms; `recv(min_envs=8)`",
    isolation=LOCKSTEP.format("64 of them in one"),
    peers=[ASYNC],
    floor="ideal: none waits for another",
    count=10,
    bars=[share(0.9, 0.97)],
    unit="us",
)(stragglers)
row(
    "stragglers in lockstep",
    what="the same by `step`, which waits for the slowest: what `recv` is there for",
    isolation=LOCKSTEP.format("64 of them in one"),
    floor="ideal: none waits for another",
    count=30,
    bars=[],
    unit="us",
)(lockstep_stragglers)
for _name, _packed in (("one process each", 1), ("8 in a process", 8)):
    row(
        f"300 turns of each of 64 Sokoban-easy, {_name}",
        what="turns at each one's own pace; most of the time goes into resets",
        isolation=LOCKSTEP.format("64 of them in one"),
        floor="gem in one process",
        count=300,
        bars=[share(1.5)],
        unit="s",
    )(partial(slow_resets, envs_per_process=_packed))
