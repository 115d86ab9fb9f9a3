"""An engine that stops and comes back: a private one, with nothing of the machine's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rock_gym import Sandbox, SandboxPool
from rock_gym.backends.docker import DockerBackend
from rock_gym.errors import BackendUnavailable, RockGymError, SandboxLost
from tests.contract.support import eventually, wait_gone, within

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start an engine"),
]


class PrivateEngine:
    """A dockerd of the test's own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.url = f"unix://{place}/e.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.end_containerd()
        # A network namespace of its own: without a bridge it removes the machine's. And one of
        # mounts, where its own are nobody's business.
        command = [
            "unshare",
            "--net",
            "--mount",
            "dockerd",
            f"--data-root={self.place}/data",
            f"--exec-root={self.place}/exec",
        ]
        command += [f"--pidfile={self.place}/pid", "-H", self.url, "--bridge=none"]
        command += ["--iptables=false", "--log-level=error"]
        with (self.place / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        assert eventually(self.answers, 60), (self.place / "log").read_text()[-2000:]

    def end_containerd(self) -> None:
        """End what a killed engine leaves running, which the next one would trip over."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.place / "exec" / "containerd" / "containerd.pid").read_text())
            os.kill(pid, signal.SIGKILL)
            wait_gone({pid})
            (self.place / "exec" / "containerd" / "containerd.pid").unlink()

    def answers(self) -> bool:
        try:
            DockerBackend(self.url).engine.close()
        except RockGymError:
            return False
        return True

    def stop(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            # Not before its last thread has stopped: they may go on for a while.
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)
        else:
            self.process.wait(60)

    def clean(self) -> None:
        """End it and all that it started, by its own process ids."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
            self.process.kill()
            self.process.wait()
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    line = Path(f"/proc/{entry}/cmdline").read_bytes()
                    if str(self.place).encode() in line:
                        os.kill(int(entry), signal.SIGKILL)
        shutil.rmtree(self.place, ignore_errors=True)


@pytest.fixture(scope="module")
def private(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    """A private engine with a small image."""
    busybox = shutil.which("busybox")
    if shutil.which("dockerd") is None or busybox is None:
        pytest.skip("dockerd or busybox is not installed")
    made = PrivateEngine(Path(f"/tmp/rock-gym-engine-{os.getpid()}"))
    made.place.mkdir()
    try:
        made.start()
        root = tmp_path_factory.mktemp("root")
        (root / "bin").mkdir()
        shutil.copy(busybox, root / "bin" / "busybox")
        for name in ("sh", "head", "chmod", "cat", "sleep"):
            (root / "bin" / name).symlink_to("busybox")
        tar = subprocess.run(["tar", "-C", str(root), "-c", "."], capture_output=True, check=True)
        backend = DockerBackend(made.url)
        backend.engine.api.import_image_from_data(tar.stdout, repository="small", tag="1")
        backend.close()
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
