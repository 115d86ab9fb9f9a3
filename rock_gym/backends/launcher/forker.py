"""The launcher's side of the forker, which makes its children for it.

They are the launcher's own, as if it had forked them itself: it reaps them.
"""

import contextlib
import os
import platform
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

_SOCKET = 3
_ANSWER = struct.Struct("=q")


class Forker:
    """A running forker; raises OSError when it cannot be started.

    Args:
        owner: Of the launcher, for the list of processes.
    """

    def __init__(self, owner: int) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = os.memfd_create("forker", os.MFD_CLOEXEC)
        try:
            path = Path(__file__).parent / "forker" / f"forker.{platform.machine()}"
            os.write(program, path.read_bytes())
            # As programs expect to be started: nothing ignored, nothing blocked.
            self.pid = os.posix_spawn(
                f"/proc/self/fd/{program}",
                ["rock-gym-forker", str(owner)],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), _SOCKET),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, 0, 1),
                    (os.POSIX_SPAWN_DUP2, 0, 2),
                ],
                setsigmask=(),
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        finally:
            os.close(program)
            theirs.close()

    def fork(self, order: bytes, fds: Sequence[int]) -> int:
        """Have a child made, and return its process id.

        Args:
            order: What it does; see ``calls.encode``.
            fds: The descriptors that it gets.

        Raises:
            ConnectionError: If the forker was killed.
            OSError: If there is no child: no process is left, or the sandbox is gone.
        """
        socket.send_fds(self._sock, [order], fds)
        answer = self._sock.recv(_ANSWER.size)
        if not answer:
            raise BrokenPipeError("the forker was killed")
        pid: int = _ANSWER.unpack(answer)[0]
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

    def close(self) -> None:
        """Wait for its end."""
        self._sock.close()
        with contextlib.suppress(ChildProcessError):  # it was killed, and has been reaped
            os.waitpid(self.pid, 0)


class Children:
    """The launcher's children that have no sandbox of their own to be looked up by.

    Args:
        owner: The launcher's.

    Attributes:
        busy: Those that are at something by themselves, the forker among them.
    """

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.busy: set[int] = set()
        self.forker = self._start_forker()

    def _start_forker(self) -> Forker:
        forker = Forker(self.owner)
        self.busy.add(forker.pid)
        return forker

    def fork(self, order: bytes, fds: Sequence[int]) -> int:
        """Have the forker make a child; should it have been killed, there will be another one."""
        try:
            return self.forker.fork(order, fds)
        except ConnectionError:
            self.close()
            self.forker = self._start_forker()
            return self.forker.fork(order, fds)

    def close(self) -> None:
        """End the forker, and wait for that."""
        self.busy.discard(self.forker.pid)
        self.forker.close()
