"""One sandbox for all attempts, and what they are to reach for: planted outside by the tests."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rock_gym import Sandbox

# As closed as a backend can make them, as in tests/contract/test_isolation.py.
HARDEST: dict[str, dict[str, Any]] = {"docker": {"profile": "strict"}}

# Where a user's secrets lie, and where programs leave theirs.
PLACES = (str(Path.home()), "/tmp", "/var/tmp", "/dev/shm", str(Path(__file__).parent))


@dataclasses.dataclass(frozen=True)
class Target:
    """What is outside.

    Attributes:
        token: The secret; a part of the name of each file that holds it.
        files: Files that anybody may read and write, who can see them.
        pid: A process of the host.
        port: Where the host listens, with TCP and UDP, on all its addresses.
        addresses: The host's addresses.
        neighbour_run_dir: The run directory of another sandbox.
    """

    token: str
    files: tuple[str, ...]
    pid: int
    port: int
    addresses: tuple[str, ...]
    neighbour_run_dir: str


@pytest.fixture(scope="module")
def sandboxes(backend: str) -> Iterator[tuple[Sandbox, Sandbox]]:
    """Two sandboxes, of which the first is the one to be escaped from."""
    options = HARDEST.get(backend, {})
    with (
        Sandbox.start(backend=backend, **options) as one,
        Sandbox.start(backend=backend, **options) as other,
    ):
        yield one, other


@pytest.fixture(scope="module")
def listening() -> Iterator[int]:
    """A port of the host that takes connections and datagrams."""
    with socket.create_server(("", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        port = tcp.getsockname()[1]
        udp.bind(("", port))
        udp.settimeout(0)
        yield port
        # Sending a datagram tells nobody whether it arrived: this does.
        with pytest.raises(BlockingIOError):
            udp.recv(1)


@pytest.fixture(scope="module")
def target(sandboxes: tuple[Sandbox, Sandbox], listening: int) -> Iterator[Target]:
    """What is outside, until the end of the module; it must not have been touched."""
    _, neighbour = sandboxes
    token = secrets.token_hex(16)
    neighbour.write_file(f"{neighbour.run_dir}/{token}", token)
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(
                tempfile.NamedTemporaryFile("w", dir=place, prefix=f"rock-gym-{token}-")
            )
            for place in PLACES
        ]
        for file in files:
            file.write(token)
            file.flush()
            os.chmod(file.name, 0o666)
        sleeper = stack.enter_context(subprocess.Popen(["sleep", "1000"]))
        stack.callback(sleeper.kill)
        yield Target(
            token=token,
            files=tuple(file.name for file in files),
            pid=sleeper.pid,
            port=listening,
            addresses=_addresses(),
            neighbour_run_dir=neighbour.run_dir,
        )
        assert {Path(file.name).read_text() for file in files} == {token}
        assert sleeper.poll() is None
        assert neighbour.is_alive()
        assert neighbour.read_file(f"{neighbour.run_dir}/{token}") == token


def _addresses() -> tuple[str, ...]:
    found = {"127.0.0.1", "127.0.0.2"}
    with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as probe:
        # Nothing is sent: this only asks which of our addresses leads there.
        probe.connect(("192.0.2.1", 9))
        found.add(probe.getsockname()[0])
    routes = Path("/proc/net/fib_trie").read_text().split("\n")
    # A line with an address is followed by one that says whether it is this machine's own.
    for line, kind in itertools.pairwise(routes):
        if "host LOCAL" in kind:
            found.add(line.split()[-1])
    return tuple(sorted(found))


Attempt = Callable[[str], Any]


@pytest.fixture(scope="module")
def attempt(sandboxes: tuple[Sandbox, Sandbox], target: Target) -> Attempt:
    """Run Python code inside, which knows the target; returns the value that it gives to tell."""
    facts = dataclasses.astuple(target)
    prelude = (
        "import errno, json, os, sys\n"
        "token, files, pid, port, addresses, run_dir = "
        f"json.loads({json.dumps(facts)!r})\n"
        "def why(action, *arguments):\n"
        "    try: action(*arguments)\n"
        "    except OSError as error: return errno.errorcode.get(error.errno, str(error))\n"
        "    return 'done'\n"
        "def tell(value): print(json.dumps(value))\n"
    )

    def run(code: str) -> Any:
        result = sandboxes[0].execute(["python3", "-I", "-S", "-c", prelude + code], timeout=30)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return run
