"""Rows of the table about the HTTP API.

The floor of most is a bare Starlette route that returns the same JSON, served in the same way.

    python -m benchmarks.http_rows 1000 20       so many clients take so many steps at the same time
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from benchmarks.floors import below
from benchmarks.games import ACTION, GUESS
from benchmarks.http_load import GEM, Connection, Player, drive
from benchmarks.table import Samples, above, at_most, row, share, take_turns, timed

SERVER = Path(__file__).with_name("http_server.py")
BATCH = 64
CLIENTS = 32


@contextmanager
def serving(*kinds: str) -> Iterator[list[str]]:
    """Run servers; yields their URLs."""
    with ExitStack() as stack:
        processes = [
            subprocess.Popen([sys.executable, SERVER, kind], stdout=subprocess.PIPE, text=True)
            for kind in kinds
        ]
        for process in processes:
            stack.callback(_end, process)
        yield [json.loads(process.stdout.readline()) for process in processes if process.stdout]


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


@contextmanager
def both() -> Iterator[tuple[str, str]]:
    """Run our server and the bare one, which answers as a step of ours does."""
    with serving("ours", "bare") as (ours, bare):
        with closing(Connection(ours)) as client, closing(Connection(bare)) as other:
            made = client.gem("make", env_id=GUESS)["sandbox_id"]
            client.gem("reset", sandbox_id=made, seed=1)
            turn = client.gem("step", sandbox_id=made, action=ACTION)
            client.gem("close", sandbox_id=made)
            other.exchange(other.pack("/keep", turn))
        yield ours, bare


class Stepper:
    """Steps one environment, and begins episodes where they have ended."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        made = connection.gem("make", env_id=GUESS)["sandbox_id"]
        self._reset = connection.pack(f"{GEM}/reset", {"sandbox_id": made, "seed": 1})
        self._step = connection.pack(f"{GEM}/step", {"sandbox_id": made, "action": ACTION})
        self._over = True

    def step(self) -> float:
        """Seconds that a step takes."""
        if self._over:
            self._connection.exchange(self._reset)
        start = time.perf_counter()
        status, answer = self._connection.exchange(self._step)
        taken = time.perf_counter() - start
        assert status == 200, answer
        self._over = b'"terminated":true' in answer
        return taken


@row(
    "gem/step inside the server",
    what="from a request's first byte in the application to its answer's last, one client",
    floor="all of it, as the client sees it",
    count=3000,
    bars=[at_most(250)],
    unit="us",
)
def step_inside(count: int) -> Samples:
    with serving("timed") as (url,), closing(Connection(url)) as client:
        stepper = Stepper(client)
        for _ in range(min(200, count)):
            stepper.step()
        client.exchange(client.pack("/durations", {}))
        seen = [stepper.step() for _ in range(count)]
        return Samples(json.loads(client.exchange(client.pack("/durations", {}))[1]), seen)


@row(
    f"REST step, {CLIENTS} clients at once",
    what="seconds for each `gem/step`, so its inverse is requests a second; a sample has 640",
    floor="a bare Starlette route",
    count=40,
    bars=[share(0.6, 0.85)],
    unit="us",
)
def many_clients(count: int) -> Samples:
    """Seconds per request, of twenty for each client and sample."""
    rounds = 20
    with both() as (ours, bare), ExitStack() as stack:
        clients = [stack.enter_context(closing(Connection(ours))) for _ in range(CLIENTS)]
        others = [stack.enter_context(closing(Connection(bare))) for _ in range(CLIENTS)]
        ids = [client.gem("make", env_id=GUESS)["sandbox_id"] for client in clients]
        steps = [
            client.pack(f"{GEM}/step", {"sandbox_id": each, "action": ACTION})
            for client, each in zip(clients, ids, strict=True)
        ]
        resets = [
            client.pack(f"{GEM}/reset", {"sandbox_id": each, "seed": 1})
            for client, each in zip(clients, ids, strict=True)
        ]
        plain = [other.pack("/", {"sandbox_id": ids[0], "action": ACTION}) for other in others]

        def run(connections: list[Connection], requests: list[bytes], times: int) -> float:
            left = [times] * len(connections)

            def following(number: int, answer: bytes) -> bytes | None:
                left[number] -= 1
                return requests[number] if left[number] >= 0 else None

            took = timed(lambda: drive(connections, following))
            return took / times / len(connections)

        def step() -> float:
            # An episode has seven turns at most.
            taken = []
            for _ in range(rounds // 5):
                run(clients, resets, 1)
                taken.append(run(clients, steps, 5))
            return sum(taken) / len(taken)

        return take_turns(step, lambda: run(others, plain, rounds), count)


@row(
    "gem/make over HTTP, warm",
    what="`gem/make` while spares are ready",
    floor="a bare Starlette route",
    count=50,
    bars=[at_most(20)],
    unit="ms",
)
def make(count: int) -> Samples:
    with both() as (ours, bare), ExitStack() as stack:
        client = stack.enter_context(closing(Connection(ours)))
        other = stack.enter_context(closing(Connection(bare)))
        request = client.pack(f"{GEM}/make", {"env_id": GUESS})
        plain = other.pack("/", {})

        def made() -> float:
            start = time.perf_counter()
            status, answer = client.exchange(request)
            taken = time.perf_counter() - start
            assert status == 200
            client.gem("close", **json.loads(answer))
            return taken

        return take_turns(made, lambda: timed(lambda: other.exchange(plain)), count)


@row(
    f"batch step of {BATCH} over HTTP",
    what="one `gem/step` of a batch of environments",
    isolation="both in embedded sandboxes",
    floor="the same by `SandboxVectorEnv`",
    count=200,
    bars=[above(1)],
    unit="ms",
)
def batch(count: int) -> Samples:
    from rock_gym.envs import SandboxVectorEnv

    actions = [ACTION] * BATCH
    with serving("ours") as (url,), closing(Connection(url)) as client:
        made = client.gem("make", env_id=GUESS, num_envs=BATCH, observation="text")["sandbox_id"]
        client.gem("reset", sandbox_id=made, seed=1)
        request = client.pack(f"{GEM}/step", {"sandbox_id": made, "action": actions})
        with SandboxVectorEnv(gem_id=GUESS, num_envs=BATCH, backend="bubblewrap") as envs:
            envs.reset(seed=1)
            # In turns of ten: 64 processes of one are woken while those of the other sleep.
            return _in_turns(
                lambda: timed(lambda: client.exchange(request)),
                lambda: timed(lambda: envs.step(actions)),
                count,
            )


def _in_turns(ours: Callable[[], float], floor: Callable[[], float], count: int) -> Samples:
    samples = Samples()
    for number in range(-2, max(1, count // 10)):
        for measure, kept in ((ours, samples.ours), (floor, samples.floor)):
            values = [measure() for _ in range(10)]
            if number >= 0:
                kept += values
    return samples


def crowd(url: str, clients: int, steps: int) -> tuple[int, float]:
    """Have so many clients play an environment each at the same time, then close it.

    Returns:
        How many steps there were, and seconds.
    """
    guesses = itertools.cycle([f"\\boxed{{{number}}}" for number in (25, 12, 37, 6, 44, 18, 31)])
    players = [Player(url, GUESS, 1000 * n, lambda: next(guesses)) for n in range(clients)]
    connections = [player.connection for player in players]

    def make(number: int, answer: bytes) -> bytes | None:
        if not answer:
            return players[number].make()
        players[number].made(answer)
        return None

    def play(number: int, answer: bytes) -> bytes | None:
        player = players[number]
        if answer:
            player.take(answer)
        return player.next() if player.steps < steps else None

    def end(number: int, answer: bytes) -> bytes | None:
        return None if answer else players[number].end()

    try:
        drive(connections, make)
        start = time.perf_counter()
        drive(connections, play)
        took = time.perf_counter() - start
        drive(connections, end)
        return sum(player.steps for player in players), took
    finally:
        for connection in connections:
            connection.close()


def left_by(pid: int, before: tuple[int, int] | None = None) -> tuple[int, int]:
    """Processes and descriptors of a server, or how many more than before once none ends any more.

    What was closed ends soon, but not at once.
    """
    deadline = time.monotonic() + 30
    while True:
        now = len(below(pid)), len(os.listdir(f"/proc/{pid}/fd"))
        if before is None:
            return now
        more = now[0] - before[0], now[1] - before[1]
        if max(more) <= 0 or time.monotonic() > deadline:
            return more
        time.sleep(0.1)


def main(arguments: list[str]) -> None:
    """Run the crowd alone and tell how it went: CLIENTS STEPS."""
    clients = int(arguments[0]) if arguments else 1000
    steps = int(arguments[1]) if len(arguments) > 1 else 20
    with serving("ours") as (url,):
        with closing(Connection(url)) as client:
            client.gem("close", sandbox_id=client.gem("make", env_id=GUESS)["sandbox_id"])
        (pid,) = (each for each in below(os.getpid()) if _is_server(each))
        before = left_by(pid)
        done, took = crowd(url, clients, steps)
        print(f"{clients} clients, {done} steps without an error, {done / took:.0f} a second")
        print("left behind: {} processes, {} descriptors".format(*left_by(pid, before)))


def _is_server(pid: int) -> bool:
    return SERVER.name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()


if __name__ == "__main__":
    main(sys.argv[1:])
