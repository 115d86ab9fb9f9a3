"""An engine of the tests' own, to stop it or to have it keep things elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from rock_gym.backends.docker import DockerBackend
from rock_gym.errors import RockGymError
from tests.contract.support import eventually, wait_gone


def place(name: str) -> Path:
    """Make a directory for one; skips where none can be started."""
    for program in ("dockerd", "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    # Not below pytest's directory: the path of a socket must be short.
    made = Path(f"/tmp/rock-gym-{name}-{os.getpid()}")
    made.mkdir()
    return made


class PrivateEngine:
    """A dockerd of the test's own.

    Args:
        place: A directory for it.
        *options: What else it is told.
        disk: The image of a file system that it keeps its containers on; None for the machine's.
    """

    def __init__(self, place: Path, *options: str, disk: Path | None = None) -> None:
        self.place = place
        self._options = options
        self._disk = disk
        self.url = f"unix://{place}/e.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.end_containerd()
        # A network namespace of its own: without a bridge it removes the machine's. And one of
        # mounts, where its own are nobody's business.
        command = ["unshare", "--net", "--mount"]
        data = self.place / "data"
        if self._disk is not None:
            data.mkdir(exist_ok=True)
            mount = 'mount -o loop "$1" "$2" && shift 2 && exec "$@"'
            command += ["sh", "-c", mount, "sh", str(self._disk), str(data)]
        command += ["dockerd", f"--data-root={data}", f"--exec-root={self.place}/exec"]
        command += [f"--pidfile={self.place}/pid", "-H", self.url, "--bridge=none"]
        command += ["--iptables=false", "--log-level=error", *self._options]
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

    def supply(self) -> None:
        """Give it a small image, ``small:1``."""
        busybox = shutil.which("busybox")
        assert busybox is not None
        with tempfile.TemporaryDirectory() as directory:
            binaries = Path(directory, "bin")
            binaries.mkdir()
            shutil.copy(busybox, binaries / "busybox")
            for name in ("sh", "head", "chmod", "cat", "sleep"):
                (binaries / name).symlink_to("busybox")
            tar = subprocess.run(
                ["tar", "-C", directory, "-c", "."], capture_output=True, check=True
            )
        backend = DockerBackend(self.url)
        backend.engine.api.import_image_from_data(tar.stdout, repository="small", tag="1")
        backend.close()

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
