"""Images: committed, built, and sent through a registry of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rock_gym import Sandbox
from rock_gym.backends.docker import Credentials, DockerBackend
from rock_gym.cli import main
from rock_gym.errors import ImageNotFound, RockGymError, SpecError, StartFailed
from tests.contract.support import eventually

KEPT = f"rock-gym-test/kept:{os.getpid()}"

# bcrypt of "secret-word", which is in the file so that no tool is needed to make it.
HTPASSWD = "me:$2y$05$yeZBXppAj09NJO3z1OP7nefIpDsjd5vCYEZCJzyQeEeXa.KlJQTha\n"
CONFIG = """version: 0.1
storage:
  filesystem:
    rootdirectory: {place}/data
  delete:
    enabled: true
http:
  addr: 127.0.0.1:{port}
{auth}
"""
AUTH = """auth:
  htpasswd:
    realm: test
    path: {place}/htpasswd
"""


def serve_registry(place: Path, auth: bool) -> tuple[subprocess.Popen[bytes], str]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    (place / "htpasswd").write_text(HTPASSWD)
    text = CONFIG.format(place=place, port=port, auth=AUTH.format(place=place) if auth else "")
    (place / "config.yml").write_text(text)
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(place / "config.yml")], stdout=log, stderr=log
        )

    def listens() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    assert eventually(listens), (place / "log").read_text()
    return process, f"127.0.0.1:{port}"


@pytest.fixture(params=[False, True], ids=["open", "private"])
def registry(request: Any, tmp_path: Path) -> Iterator[tuple[str, Credentials | None]]:
    """A registry on loopback, and who may use it."""
    process, address = serve_registry(tmp_path, request.param)
    yield address, Credentials("me", "secret-word") if request.param else None
    process.terminate()
    process.wait(20)


@pytest.fixture
def backend() -> Iterator[DockerBackend]:
    made = DockerBackend()
    yield made
    made.close()


@pytest.fixture
def remove(engine: Any) -> Iterator[Any]:
    """Have images removed after the test."""
    names: list[str] = []
    yield names.append
    for name in names:
        try:
            engine.api.remove_image(name, force=True)
        except Exception as error:  # whether it is there is the test's business
            assert "No such image" in str(error)


@pytest.fixture
def pushed(
    registry: tuple[str, Credentials | None],
    backend: DockerBackend,
    busybox: str,
    engine: Any,
    remove: Any,
) -> str:
    """An image that the registry has, and the engine no more."""
    name = f"{registry[0]}/team/base:2"
    remove(name)
    engine.api.tag(busybox, f"{registry[0]}/team/base", "2")
    backend.images.push(name)
    engine.api.remove_image(name)
    return name


# Where credentials could only come from `docker login`.
open_only = pytest.mark.parametrize("registry", [False], ids=["open"], indirect=True)


class TestCommit:
    def test_files_come_back_and_nothing_of_ours(
        self, engine: Any, start: Any, remove: Any, busybox: str
    ) -> None:
        remove(f"{KEPT}-1")
        sandbox = start(busybox, env={"TOKEN": "planted-secret"})
        session = sandbox.create_session()
        session.run("echo kept > /work/f; echo data > /etc/data")
        image = sandbox.commit(f"{KEPT}-1")
        assert image.name == f"{KEPT}-1"
        assert image.size_bytes > 1_000_000
        assert session.run("cat /work/f").output == "kept\n"
        again = start(f"{KEPT}-1")
        assert again.execute("cat /work/f /etc/data").stdout == "kept\ndata\n"
        assert again.execute("echo $TOKEN").stdout == "\n"
        told = engine.inspect_image(f"{KEPT}-1")["Config"]
        assert "planted-secret" not in str(told)
        assert (told["Entrypoint"], told["Cmd"]) == (None, ["/bin/sh"])
        assert not [value for value in told["Labels"].values() if value]
        assert told["StopSignal"] == "SIGTERM"
        assert (
            ".agent" not in again.execute("cat /run/rock-gym/.agent; echo /run/rock-gym/*").stdout
        )

    def test_what_cannot_be_committed(self, start: Any) -> None:
        with pytest.raises(SpecError, match="strict"):
            start(profile="strict").commit(f"{KEPT}-2")
        sandbox = start()
        for name in ("", "UPPER/case", "a b", "x" * 5000, "a:b:c", "-x"):
            with pytest.raises(SpecError):
                sandbox.commit(name)

    def test_a_stopped_sandbox(self, start: Any) -> None:
        sandbox = start()
        sandbox.stop()
        with pytest.raises(RockGymError):
            sandbox.commit(f"{KEPT}-3")


class TestRegistry:
    def test_there_and_back(
        self,
        registry: tuple[str, Credentials | None],
        backend: DockerBackend,
        busybox: str,
        engine: Any,
        remove: Any,
    ) -> None:
        address, credentials = registry
        name = f"{address}/team/tools:1.0"
        remove(name)
        with Sandbox.start(busybox, backend=backend) as sandbox:
            sandbox.write_file("/made", "here")
            sandbox.commit(name)
        told: list[str] = []
        backend.images.push(name, credentials=credentials, progress=told.append)
        assert any("Pushed" in line or "digest" in line for line in told)
        engine.api.remove_image(name, force=True)
        with pytest.raises(ImageNotFound, match="docker pull"):
            Sandbox.start(name, backend=backend)
        told.clear()
        backend.images.pull(name, credentials=credentials, progress=told.append)
        assert any("Pull" in line or "Download" in line for line in told)
        with Sandbox.start(name, backend=backend) as sandbox:
            assert sandbox.read_file("/made") == "here"
        assert "secret-word" not in "".join(told)

    def test_who_may_not(
        self, registry: tuple[str, Credentials | None], backend: DockerBackend, busybox: str
    ) -> None:
        address, credentials = registry
        wrong = Credentials("me", "guessed-word")
        with pytest.raises(ImageNotFound) as caught:
            backend.images.pull(f"{address}/team/none:1", credentials=credentials and wrong)
        assert "guessed-word" not in str(caught.value)
        assert "guessed-word" not in repr(wrong)

    @open_only
    @pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
    def test_the_command_line_pulls_for_both(
        self, pushed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An engine by itself, embedded sandboxes by skopeo; both run what is in it."""
        monkeypatch.setenv("ROCK_GYM_DATA", str(tmp_path / "store"))
        for kind, more in (("docker", []), ("bubblewrap", ["--insecure"])):
            words = ["image", "pull", pushed, "--backend", kind, *more, "--json"]
            pulled = CliRunner().invoke(main, words)
            assert pulled.exit_code == 0, pulled.output
            assert json.loads(pulled.stdout)["name"] == pushed
            words = ["exec", "--backend", kind, "--image", pushed, "busybox", "echo", "it runs"]
            assert CliRunner().invoke(main, words).stdout == "it runs\n"

    @open_only
    def test_missing_is_pulled(self, pushed: str, backend: DockerBackend) -> None:
        for policy in ("missing", "always"):
            with Sandbox.start(pushed, backend=backend, pull=policy) as sandbox:
                assert sandbox.execute("echo up").stdout == "up\n"


class TestDockerfiles:
    def test_a_spec_with_one(self, start: Any, busybox: str, engine: Any, remove: Any) -> None:
        text = f"FROM {busybox}\nRUN echo built > /built\nENV WHO=me\nWORKDIR /here\n"
        sandbox = start(dockerfile=text)
        assert sandbox.execute("cat /built; echo $WHO; pwd").stdout == "built\nme\n/here\n"
        assert start(dockerfile=text).execute("cat /built").stdout == "built\n"
        names = [tag for image in engine.api.images("rock-gym/build") for tag in image["RepoTags"]]
        for name in names:
            remove(name)

    def test_one_that_fails(self, start: Any, busybox: str) -> None:
        with pytest.raises(StartFailed, match="non-zero") as caught:
            start(dockerfile=f"FROM {busybox}\nRUN echo it says why; exit 3\n")
        assert "it says why" in (caught.value.output or "")
