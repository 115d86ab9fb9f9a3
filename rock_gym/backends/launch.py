"""The owner's side of the launcher: starts it, and sends it requests with descriptors.

There is one launcher per owner process and backend. A forked child of the owner drops all of its
descriptors at once: its parent goes on using them, and a copy would keep sandboxes alive.
"""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rock_gym.backends.seccomp import filter_program
from rock_gym.errors import BackendUnavailable

_PROGRAM = Path(__file__).with_name("launcher")
_PACKET_BYTES = 65536
_REPLY_BYTES = 16384
_MAX_FDS = 4
_ANSWER_S = 30.0

_inherited: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _drop_inherited() -> None:
    for sock in tuple(_inherited):
        sock.close()
    _inherited.clear()


os.register_at_fork(after_in_child=_drop_inherited)


def owned_pair() -> tuple[socket.socket, socket.socket]:
    """Make a connected pair of packet sockets; the first is closed in forked children."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    _inherited.add(ours)
    return ours, theirs


def send_request(sock: socket.socket, request: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one request with descriptors, in one packet whatever its size.

    Raises:
        OSError: If the launcher has closed its end.
    """
    send_packet(sock, json.dumps(request).encode(), fds)


def send_packet(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """Send bytes with descriptors, in one packet whatever their size.

    Raises:
        OSError: If the launcher has closed its end.
    """
    if len(data) <= _PACKET_BYTES:
        socket.send_fds(sock, [data], list(fds))
        return
    fd = os.memfd_create("request")
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        socket.send_fds(sock, [b"+"], [*fds, fd])


def receive_reply(sock: socket.socket, deadline: float | None) -> tuple[dict[str, Any], list[int]]:
    """Wait for one reply of the launcher, with the descriptors that came along.

    Args:
        sock: The socket that the request named.
        deadline: In terms of ``time.monotonic``; None waits for ever.

    Returns:
        The reply; an empty one when the launcher has closed its end.

    Raises:
        TimeoutError: If none came in time.
    """
    sock.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-3))
    try:
        # Not socket.recv_fds: it ignores its flags, and ours must not leak into what is exec'd.
        room = socket.CMSG_LEN(_MAX_FDS * 4)
        data, ancillary, _, _ = sock.recvmsg(_REPLY_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return {}, []
    fds = array.array("i")
    for _, _, part in ancillary:
        fds.frombytes(part)
    return (json.loads(data) if data else {}), list(fds)


def no_namespaces(reason: str) -> str:
    """Return what is said of a machine that refuses namespaces."""
    return (
        f"this machine does not let {'root' if os.geteuid() == 0 else 'ordinary users'} make "
        f"user namespaces ({reason}). Remedies: sysctl -w user.max_user_namespaces=65536; "
        "on Ubuntu 23.10 and later sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; "
        "in a container, run it with a seccomp profile that allows unshare and mount. "
        "See what is in the way with: rock-gym doctor"
    )


class Launcher:
    """A running launcher process.

    Raises:
        BackendUnavailable: If it does not start, or there is no filter for this machine.
    """

    def __init__(self) -> None:
        filters = {
            "plain": filter_program(),
            "one-id": filter_program(ignore_owners=True),
        }
        self._control, theirs = owned_pair()
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self.owner = os.getpid()
        with theirs:
            command = [sys.executable, "-I", "-S", str(_PROGRAM), str(theirs.fileno())]
            try:
                # A session of its own: Ctrl-C in the owner's terminal is for the owner alone.
                self._process = subprocess.Popen(
                    [*command, str(self.owner)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    env={},
                    cwd="/",
                )
            except OSError as error:
                self._control.close()
                raise BackendUnavailable(
                    f"the launcher of embedded sandboxes did not start with {sys.executable}: "
                    f"{error}"
                ) from error
        for key, program in filters.items():
            send_request(self._control, {"op": "seccomp", "key": key, "program": program.hex()})

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        return self._process.pid

    def is_usable(self) -> bool:
        """Whether it runs, and was started by this process rather than by one we forked from."""
        return self.owner == os.getpid() and self._process.poll() is None

    def start(self, request: dict[str, Any], key: str, plan: dict[str, Any]) -> socket.socket:
        """Begin a sandbox; its first reply comes over the returned socket.

        Args:
            request: What is the sandbox's own.
            key: The name of its image's plan.
            plan: The plan itself, which is sent only once: it is long.

        Raises:
            BackendUnavailable: If the launcher has died.
        """
        ours, theirs = owned_pair()
        with theirs:
            try:
                with self._lock:
                    if key not in self._known:
                        send_request(self._control, {"op": "plan", "key": key, "plan": plan})
                        self._known.add(key)
                    request = {"op": "start", "plan": key, **request}
                    send_request(self._control, request, [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise BackendUnavailable(
                    "the launcher of embedded sandboxes has died; make a new pool"
                ) from error
        return ours

    def controllers(self) -> frozenset[str]:
        """Return the control group controllers with which it can limit sandboxes.

        Raises:
            BackendUnavailable: If the launcher has died, or can start nothing here.
        """
        return frozenset(self._groups()["controllers"])

    def swept(self) -> list[str]:
        """Return the control groups of launchers before it that were still there, and are not now.

        Raises:
            BackendUnavailable: If the launcher has died.
        """
        return list(self._groups()["swept"])

    def _groups(self) -> dict[str, Any]:
        ours, theirs = owned_pair()
        with ours:
            with theirs:
                send_request(self._control, {"op": "limits"}, [theirs.fileno()])
            reply, _ = receive_reply(ours, time.monotonic() + _ANSWER_S)
        if not reply:
            raise BackendUnavailable("the launcher of embedded sandboxes has died; make a new pool")
        if "error" in reply:
            raise BackendUnavailable(no_namespaces(str(reply["error"])))
        return reply

    def close(self) -> None:
        """End it, and so everything it has started. Twice is fine."""
        self._control.close()
        if self.owner == os.getpid():
            self._process.wait()
