"""A Unix socket to a container's first process, beside the engine's stream and instead of it.

Only for an engine on this machine, and only where asked for: a directory of the host is shown in
the container, read-only, until its first process has connected. Nothing else has started by then,
and afterwards nothing is left in it.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile

from rock_gym.backends.docker import protocol
from rock_gym.errors import SpecError, StartFailed
from rock_gym.spec import SandboxSpec

MOUNTED_AT = "/run/rock-gym-host"
_NAME = "s"
_CREDENTIALS = struct.Struct("3i")


def check(spec: SandboxSpec) -> None:
    """Refuse where processes inside could be reached, but not be killed.

    Raises:
        SpecError: If the spec asks for it and it cannot be had.
    """
    if not spec.run_dir:
        return
    if os.geteuid() != 0:
        raise SpecError(
            "run_dir=True needs root, who may kill what runs in containers; leave it out"
        )
    if spec.profile != "default":
        raise SpecError("run_dir=True shares a socket with the host: leave it out, or the profile")


class Door:
    """Where a container's first process connects. A context manager: leaving it removes all.

    Args:
        directory: Where it was the last time, if it was.

    Raises:
        StartFailed: If something else is there by now.
    """

    def __init__(self, directory: str | None = None) -> None:
        if directory is None:
            directory = tempfile.mkdtemp(prefix="rock-gym-run-")
        else:
            try:
                os.mkdir(directory, 0o700)
            except OSError as error:
                raise StartFailed(
                    f"the sandbox's run directory cannot be made again: {error}"
                ) from error
        self.directory = directory
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"{self.directory}/{_NAME}")
        self._listener.listen(1)

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def order(self) -> bytes:
        """Return the frame that has the first process connect."""
        return protocol.frame(0, protocol.JOIN, f"{MOUNTED_AT}/{_NAME}\0".encode())

    def accept(self, pid: int, timeout_s: float) -> socket.socket:
        """Wait for it.

        Args:
            pid: The first process, as the engine knows it.
            timeout_s: Seconds to wait.

        Raises:
            StartFailed: If it does not come, or another one does.
        """
        self._listener.settimeout(max(timeout_s, 0.001))
        try:
            sock, _ = self._listener.accept()
        except TimeoutError:
            raise StartFailed(
                "the sandbox did not come to its run directory: is the engine on this machine?"
            ) from None
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(found)[0] != pid:
            sock.close()
            raise StartFailed("another process came to the sandbox's run directory")
        return sock
