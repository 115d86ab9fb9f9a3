"""The ``docker`` program, as people call it, as a peer."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.floors import below, proportional_mb
from benchmarks.peers.process import PeerFailed
from benchmarks.table import Side, repeat

IMAGE = "python:3.11"
DOCKER_RUN, DOCKER_EXEC, CONTAINER = "`docker run`", "`docker exec`", "docker container"


class DockerCli:
    """A container that idles, and new ones that run ``true``; without a network, as ours have none.

    Raises:
        PeerFailed: When entered, if there is no engine with the image.
    """

    def __enter__(self) -> DockerCli:
        self.container = _docker(
            "run", "--rm", "--detach", "--network=none", "--init", IMAGE, "sleep", "900"
        )
        return self

    def __exit__(self, *_: object) -> None:
        _docker("rm", "--force", self.container)

    def run_true(self) -> None:
        """``docker run``, to its end. The container is gone afterwards."""
        _docker("run", "--rm", "--network=none", IMAGE, "true")

    def exec_true(self) -> None:
        """``docker exec``, to its end."""
        _docker("exec", self.container, "true")

    def memory_mb(self) -> float:
        """Proportional memory of the idle container and of the shim that looks after it.

        Raises:
            PeerFailed: If the engine's processes are not this machine's.
        """
        pid = int(_docker("inspect", "--format={{.State.Pid}}", self.container))
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            (parent,) = (line.split()[1] for line in status.splitlines() if line.startswith("PPid"))
            return sum(proportional_mb(each) for each in {int(parent), *below(int(parent))})
        except OSError as error:
            raise PeerFailed(f"the engine's processes cannot be looked at: {error}") from None


def docker_beside(
    stack: ExitStack, name: str, measure: Callable[[DockerCli], float]
) -> tuple[dict[str, Side], dict[str, str]]:
    """Have it take part in a comparison.

    Args:
        stack: What ends it.
        name: What the row calls it.
        measure: Returns one sample.

    Returns:
        Its side, and else why it has none.
    """
    try:
        docker = stack.enter_context(DockerCli())
    except PeerFailed as error:
        return {}, {name: str(error)}
    return {name: Side(repeat(lambda: measure(docker)))}, {}


def _docker(*arguments: str) -> str:
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise PeerFailed(f"docker {arguments[0]}: {error}") from None
    if done.returncode != 0:
        raise PeerFailed(f"docker {arguments[0]}: {' '.join(done.stderr.split())[-200:]}")
    return done.stdout.strip()
