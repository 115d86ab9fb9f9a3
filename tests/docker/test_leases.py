"""Sandboxes that outlive who started them, and how they are found again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from rock_gym import Sandbox
from rock_gym.backends.docker import DockerBackend
from rock_gym.cli import main
from rock_gym.errors import RockGymError, SandboxLost, SpecError
from tests.contract.support import Owner, containers_of, eventually, within

SCRIPT = """
import sys, rock_gym
sandbox = rock_gym.Sandbox.start(
    backend="docker", lifetime="lease", env={"TOKEN": "secret"}, run_dir="beside" in sys.argv
)
sandbox.write_file("kept", "still here")
bash = sandbox.create_session()
bash.run("sleep 1000 & (trap '' TERM; sleep 2000) &")
for _ in range(2): sandbox.open(["yes", "noise"])  # more than fits between us
print('"' + sandbox.id + '"', flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def backend() -> Iterator[DockerBackend]:
    made = DockerBackend()
    yield made
    made.close()


def abandoned(*, beside: bool = False) -> str:
    """A lease whose owner was killed while it was busy, talking to it beside the engine or not."""
    with Owner(f"import sys; sys.argv.append({'beside' * beside!r}){SCRIPT}") as owner:
        name: str = owner.tells()
        owner.kill()
        owner.process.wait(10)
    return name


def test_a_lease_is_adopted(backend: DockerBackend) -> None:
    """Its files are there; what ran in it is not, and says nothing any more."""
    name = abandoned()
    assert name in backend.leases()
    spec, container = backend.adopt(name)
    with Sandbox(backend, spec, container) as sandbox:
        assert sandbox.id == name
        assert sandbox.read_file("kept") == "still here"
        processes = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
        assert eventually(lambda: "sleep" not in sandbox.execute(processes).stdout)
        for number in range(50):
            assert sandbox.execute(f"echo {number}").stdout == f"{number}\n"
        assert sandbox.create_session().run("echo session").output == "session\n"
    assert name not in backend.leases()
    with pytest.raises(SandboxLost):
        backend.adopt(name)


def test_it_is_adopted_again_and_again(backend: DockerBackend) -> None:
    name = abandoned(beside=os.geteuid() == 0)
    try:
        for number in range(5):
            _, container = backend.adopt(name)
            writer = container.open_write(f"f{number}")
            writer.write(b"x")
            writer.commit()
            container.detach()
            container.detach()
    finally:
        spec, container = backend.adopt(name)
        with Sandbox(backend, spec, container) as sandbox:
            listing = sandbox.execute("ls").stdout
    assert listing.split() == ["f0", "f1", "f2", "f3", "f4", "kept"]


def test_one_that_nobody_renews_ends(backend: DockerBackend) -> None:
    name = abandoned()
    _, container = backend.adopt(name)
    container.renew(1)
    with within(15):
        assert eventually(lambda: not container.is_alive())
    container.detach()
    assert name in [each["id"] for each in backend.list()]
    # The stream ends a moment before the engine knows.
    assert eventually(lambda: name in backend.reap())
    assert name not in [each["id"] for each in backend.list()]


def test_one_that_its_owner_never_got_going_is_reaped(backend: DockerBackend) -> None:
    """It waits for its first process, for ever."""
    script = """
import os, rock_gym
from rock_gym.backends.docker.boot import Boot
Boot._hand_over = lambda *_: os.kill(os.getpid(), 9)
rock_gym.Sandbox.start(backend="docker", lifetime="lease")
"""
    alive = Sandbox.start(backend=backend, lifetime="lease")
    with Owner(script) as owner:
        owner.process.wait(30)
        assert len(containers_of(owner.process.pid)) == 1
        backend.reap()
        assert not containers_of(owner.process.pid)
    assert alive.execute("echo here").stdout == "here\n"
    alive.delete()


def test_closing_a_backend_keeps_leases() -> None:
    backend = DockerBackend()
    sandbox = Sandbox.start(backend=backend, lifetime="lease")
    backend.close()
    again = DockerBackend()
    spec, container = again.adopt(sandbox.id)
    Sandbox(again, spec, container).stop()
    again.close()
    with pytest.raises(RockGymError):
        sandbox.execute("true")
    sandbox.stop()


def test_others_cannot_be_renewed(start: Any) -> None:
    with pytest.raises(SpecError, match="lease"):
        start()._container.renew(10)


def test_the_commands(start: Any) -> None:
    """`rock-gym ps` shows them, and `rock-gym reap` leaves the living alone."""
    sandbox = start()
    shown = json.loads(CliRunner().invoke(main, ["ps", "--json"]).stdout)
    (mine,) = [each for each in shown if each["id"] == sandbox.id]
    assert (mine["state"], mine["owner"], mine["lifetime"]) == ("running", "alive", "owner")
    assert CliRunner().invoke(main, ["reap"]).exit_code == 0
    assert sandbox.execute("echo alive").stdout == "alive\n"
