"""An engine that stops and comes back: a private one, with nothing of the machine's own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rock_gym import Sandbox, SandboxPool
from rock_gym.backends.docker import DockerBackend
from rock_gym.errors import BackendUnavailable, RockGymError, SandboxLost
from tests.contract.support import eventually, within
from tests.docker.private_engine import PrivateEngine, place

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start an engine"),
]


@pytest.fixture(scope="module")
def private(engine: Any) -> Iterator[PrivateEngine]:
    """A private engine with a small image."""
    made = PrivateEngine(place("engine"))
    try:
        made.start()
        made.supply()
        yield made
    finally:
        made.clean()


@pytest.fixture
def backend(private: PrivateEngine) -> Iterator[DockerBackend]:
    """A backend on the private engine, which runs."""
    if private.process is None or private.process.poll() is not None:
        private.start()
    made = DockerBackend(private.url)
    yield made
    made.close()


def start(backend: DockerBackend, *, run_dir: bool = False) -> Sandbox:
    return Sandbox.start("small:1", backend=backend, run_dir=run_dir)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_that_stops_in_a_command(
    private: PrivateEngine, backend: DockerBackend, number: int
) -> None:
    """Whoever waits hears of it soon, by a typed error, and never a result."""
    with start(backend) as sandbox, ThreadPoolExecutor(1) as thread:
        running = thread.submit(sandbox.execute, "echo begun; sleep 100; echo never", timeout=60)
        assert eventually(running.running)
        time.sleep(0.3)
        with within(40):
            private.stop(number)
        with within(10), pytest.raises(SandboxLost) as caught:
            running.result(30)
        assert caught.value.output == "begun\n"
        assert "engine" in caught.value.message
        assert sandbox.status().state == "stopped"
    with within(10), pytest.raises(BackendUnavailable, match="no Docker Engine answers"):
        start(DockerBackend(private.url))


def test_a_pool_recovers(private: PrivateEngine, backend: DockerBackend) -> None:
    def there() -> set[str]:
        return {found["Id"] for found in backend.engine.list("rock-gym.owner")}

    before = there()
    with SandboxPool("small:1", backend=backend, min_idle=1, max_size=3) as pool:
        with pool.acquire(timeout=30) as sandbox:
            assert sandbox.execute("echo before").stdout == "before\n"
            private.stop()
            with within(15), pytest.raises(SandboxLost):
                sandbox.execute("echo during", timeout=10)
        with within(40), pytest.raises(RockGymError):
            pool.acquire(timeout=5)
        private.start()

        def works() -> bool:
            try:
                with pool.acquire(timeout=20) as sandbox:
                    return sandbox.execute("echo after").stdout == "after\n"
            except RockGymError:
                return False

        assert eventually(works, 60)
    # Also what could not be removed while the engine was gone.
    assert there() <= before


def test_an_engine_that_is_frozen(private: PrivateEngine, backend: DockerBackend) -> None:
    """A command's own limit holds, and the sandbox goes on when the engine does."""
    with start(backend) as sandbox, start(backend, run_dir=True) as beside:
        assert private.process is not None
        session = sandbox.create_session()
        private.stop(signal.SIGSTOP)
        try:
            with within(30), pytest.raises(RockGymError):
                session.run("echo frozen", timeout=1)
            # What it is not asked for does not suffer.
            assert beside.create_session().run("echo on").output == "on\n"
        finally:
            private.process.send_signal(signal.SIGCONT)
        if sandbox.is_alive():
            assert sandbox.execute("echo thawed").stdout == "thawed\n"
