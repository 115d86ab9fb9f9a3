"""Rows of the table about one client of the HTTP API, beside ROCK's client and ROCK's server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

from benchmarks.games import ACTION, GUESS
from benchmarks.http_load import Connection
from benchmarks.http_rows import Stepper, both
from benchmarks.peers import venvs
from benchmarks.peers.process import ROOT, PeerFailed, Peers
from benchmarks.table import Samples, Side, compare, faster, repeat, row, timed

CLIENT, ROCKLET = "ROCK's client, our server", "ROCK's rocklet, our client"
SANDBOXES = "/apis/envs/sandbox/v1"


class Rocklet:
    """ROCK's server inside a sandbox, and a connection to it.

    Args:
        stack: What ends it.

    Raises:
        PeerFailed: If it is not installed or does not come up.
    """

    def __init__(self, stack: ExitStack) -> None:
        try:
            python = venvs.interpreter("rl-rock")
        except LookupError as error:
            raise PeerFailed(str(error)) from None
        with socket.create_server(("127.0.0.1", 0)) as listening:
            home = stack.enter_context(tempfile.TemporaryDirectory())
            descriptor = listening.fileno()
            process = subprocess.Popen(
                [python, "-m", "benchmarks.peers.rocklet", str(descriptor)],
                pass_fds=[descriptor],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(_end, process)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        # It listens already; what comes before it serves waits in the queue.
        self.connection = stack.enter_context(closing(Connection(url)))

    def ask(self, path: str, body: object) -> bytes:
        """Call it; see ``exchange``."""
        return self.exchange(self.connection.pack(path, body))

    def exchange(self, request: bytes) -> bytes:
        """Send a request; returns the answer's body.

        Raises:
            PeerFailed: If that is not one of success.
        """
        try:
            status, answer = self.connection.exchange(request)
        except OSError as error:
            raise PeerFailed(f"ROCK's rocklet: {error}") from None
        if status != 200:
            raise PeerFailed(f"ROCK's rocklet: {status} {answer[:120].decode(errors='replace')}")
        return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def rocklet_session(stack: ExitStack) -> Callable[[], float]:
    """Return what runs a builtin in a session of ROCK's server, and times it."""
    rocklet = Rocklet(stack)
    session = {"sandbox_id": "bench", "session": "main"}
    rocklet.ask("/create_session", {"session_type": "bash", "startup_timeout": 60, **session})
    run = {"action_type": "bash", "command": "true", **session}
    request = rocklet.connection.pack("/run_in_session", run)

    def one() -> float:
        start = time.perf_counter()
        answer = rocklet.exchange(request)
        taken = time.perf_counter() - start
        assert json.loads(answer)["exit_code"] == 0, answer
        return taken

    return one


def rocklet_steps(stack: ExitStack) -> Callable[[], float]:
    """Return what steps an environment in ROCK's server, and times it."""
    rocklet = Rocklet(stack)
    own = {"sandbox_id": "bench"}
    rocklet.ask("/env/make", {"env_id": GUESS, **own})
    reset = rocklet.connection.pack("/env/reset", {"seed": 1, **own})
    step = rocklet.connection.pack("/env/step", {"action": ACTION, **own})
    over = True

    def one() -> float:
        nonlocal over
        if over:
            rocklet.exchange(reset)
        start = time.perf_counter()
        answer = rocklet.exchange(step)
        taken = time.perf_counter() - start
        turn = json.loads(answer)
        over = turn["terminated"] or turn["truncated"]
        return taken

    return one


def beside(
    stack: ExitStack,
    url: str,
    kind: str,
    sampler: str,
    other: Callable[[ExitStack], Callable[[], float]],
) -> tuple[dict[str, Side], dict[str, str]]:
    """Start ROCK's client against our server, and its own server.

    Returns:
        Those that came up, and why others did not.
    """
    peers = Peers(stack)
    sides = {}
    client = peers.start(CLIENT, "rock_client", kind, url, GUESS, ACTION, venv="rl-rock")
    if client is not None:
        sides[CLIENT] = Side(partial(client.sample, sampler), 5)
    try:
        sides[ROCKLET] = Side(repeat(other(stack)), 5 if sampler == "step" else 1)
    except PeerFailed as error:
        peers.missing[ROCKLET] = str(error)
    return sides, peers.missing


@row(
    "session command over HTTP, one client",
    what="`run_in_session` of `true` over a connection that is kept",
    isolation="our server's sandbox is embedded; the rocklet runs in none",
    peers=[ROCKLET, CLIENT],
    floor="a bare Starlette route",
    count=2000,
    bars=[faster(aim=100)],
    unit="us",
)
def session_over_http(count: int) -> Samples:
    with ExitStack() as stack:
        ours, bare = stack.enter_context(both())
        client = stack.enter_context(closing(Connection(ours)))
        plain = stack.enter_context(closing(Connection(bare)))

        def call(path: str, **body: object) -> dict[str, object]:
            answer = json.loads(client.exchange(client.pack(f"{SANDBOXES}/{path}", body))[1])
            assert answer["status"] == "Success", answer
            result: dict[str, object] = answer["result"]
            return result

        made = {"sandbox_id": call("start", image="host")["sandbox_id"], "session": "main"}
        call("create_session", **made)
        request = client.pack(f"{SANDBOXES}/run_in_session", {**made, "command": "true"})
        route = plain.pack("/", {**made, "command": "true"})

        def one() -> float:
            start = time.perf_counter()
            _, answer = client.exchange(request)
            taken = time.perf_counter() - start
            assert b'"exit_code":0' in answer, answer
            return taken

        sides, missing = beside(stack, ours, "sandbox", "session", rocklet_session)
        floor = Side(repeat(lambda: timed(lambda: plain.exchange(route))), 20)
        return compare(count, Side(repeat(one), 20), floor, sides, missing)


@row(
    "gem/step over HTTP, one client",
    what="a step of GuessTheNumber over a connection that is kept",
    isolation="our server's environment is in an embedded sandbox; the rocklet's in none",
    peers=[ROCKLET, CLIENT],
    floor="a bare Starlette route",
    count=3000,
    bars=[faster(aim=2), faster(aim=10, peer=CLIENT)],
    unit="us",
)
def step_over_http(count: int) -> Samples:
    with ExitStack() as stack:
        ours, bare = stack.enter_context(both())
        stepper = Stepper(stack.enter_context(closing(Connection(ours))))
        plain = stack.enter_context(closing(Connection(bare)))
        route = plain.pack("/", {"sandbox_id": "0", "action": ACTION})
        sides, missing = beside(stack, ours, "env", "step", rocklet_steps)
        floor = Side(repeat(lambda: timed(lambda: plain.exchange(route))), 20)
        return compare(count, Side(repeat(stepper.step), 20), floor, sides, missing)
