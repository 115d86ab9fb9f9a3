"""The host's side of a guest: the process in a sandbox that has GEM imported and forks from it.

A guest is started with copies of our files, never with the host's checkout. From then on it takes
one kind of order: here is a socket, fork a process for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
import weakref
from importlib import resources
from typing import TYPE_CHECKING, Any

from rock_gym.backends.handles import STDERR, Line, Process
from rock_gym.errors import (
    EnvUnavailable,
    FileError,
    RockGymError,
    SandboxLost,
    StartFailed,
)
from rock_gym.gem import wire
from rock_gym.gem.channel import EnvChannel, HostChannel
from rock_gym.gem.interpreter import GuestPython

if TYPE_CHECKING:
    from rock_gym.sandbox import Sandbox

__all__ = ["Guest", "close_in_children"]

# The package's name inside, which is nobody else's.
_PACKAGE = "_rock_gym_guest"
_FILES = (
    "chance.py",
    "guest.py",
    "plain.py",
    "several.py",
    "supplies.py",
    "wire.py",
    "words.py",
)

# Without `site`, which would take a virtual environment's base packages in where the sandbox lets
# pip install; and with the first entry of the path ours, which otherwise is the current directory.
_BOOT = f"""
import json, site, sys
settings = json.loads(sys.argv[1])
sys.path[0] = settings["run_dir"]
for path in settings["site_dirs"]:
    site.addsitedir(path)
from {_PACKAGE} import guest
guest.main(settings)
"""
_FLAGS = ("-S", "-s")
_ENVIRONMENT = {
    # Some environments' texts depend on the order in which they walk a set.
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": "",
    "PYTHONHOME": "",
}

_SEND_S = 10.0
_PING_S = 10.0
_OUTPUT_BYTES = 16_000

_open: weakref.WeakSet[Any] = weakref.WeakSet()


def close_in_children(owner: Any) -> None:
    """Have ``owner._drop()`` called in processes that are forked from this one.

    A copy of a socket there would keep its other end from seeing that this process ended.
    """
    _open.add(owner)


def _drop_inherited() -> None:
    for owner in tuple(_open):
        owner._drop()
    _open.clear()


os.register_at_fork(after_in_child=_drop_inherited)


class Guest:
    """A running guest. All methods may be called from any thread.

    Args:
        sandbox: Where it runs. It stays the caller's.
        python: What it runs on.
        timeout_s: Seconds until it must be up; None for no limit.

    Raises:
        StartFailed: If it did not come up; carries what it printed.
        EnvUnavailable: If GEM cannot be imported in the sandbox.
        SandboxLost: If the sandbox died.
    """

    def __init__(self, sandbox: Sandbox, python: GuestPython, timeout_s: float | None) -> None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.sandbox = sandbox
        self._lock = threading.Lock()
        self._files: dict[str, str] = {}
        self._alive = True
        for name in _FILES:
            source = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
            sandbox.write_file(f"{sandbox.run_dir}/{_PACKAGE}/{name}", source)
        sandbox.write_file(f"{sandbox.run_dir}/{_PACKAGE}/__init__.py", "")
        self._process, ours = _open_process(sandbox, python)
        self._control = HostChannel(ours, wire.CONTROL_REPLIES)
        close_in_children(self)
        try:
            self._await_ready(deadline)
        except BaseException:
            self.close()
            raise

    def _await_ready(self, deadline: float | None) -> None:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        try:
            reply = self._control.receive(left)
        except TimeoutError:
            raise StartFailed(
                "the guest did not import GEM in time; is the machine overloaded?",
                sandbox_id=self.sandbox.id,
            ) from None
        except (EOFError, wire.WireError):
            output = _last_output(self._process)
            if not self.sandbox.is_alive():
                raise _lost(self.sandbox) from None
            raise StartFailed(
                f"the guest did not come up: {output.strip()[-500:] or 'it printed nothing'}",
                sandbox_id=self.sandbox.id,
                output=output,
            ) from None
        if isinstance(reply, wire.Refused):
            raise EnvUnavailable(
                f"GEM cannot be imported in the sandbox: {reply.message}",
                sandbox_id=self.sandbox.id,
                output=reply.traceback,
            )

    def fork(self, gem_id: str, preload: bool) -> EnvChannel:
        """Order a process that serves an environment. Does not wait for it.

        Args:
            gem_id: The environment it is for.
            preload: Whether the guest may import that environment's module once for all.

        Returns:
            The channel to it, which is the caller's.

        Raises:
            SandboxLost: If the guest is gone.
        """
        request = wire.Fork(gem_id, preload)
        with self._lock:
            try:
                if not self.sandbox.capabilities.sockets:
                    return EnvChannel(self._control.pass_line(request))
                return self._fork_with_socket(request)
            except OSError as error:
                raise self._gone() from error

    def _fork_with_socket(self, request: wire.Fork) -> EnvChannel:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        channel = EnvChannel(ours)
        try:
            with theirs:
                self._control.send_socket(request, theirs, _SEND_S)
        except BaseException:
            channel.close()
            raise
        return channel

    def answers(self) -> bool:
        """Whether it is there, asked by a round trip."""
        with self._lock:
            try:
                self._control.send(wire.Ping(), _SEND_S)
                self._control.receive(_PING_S)
            except (OSError, EOFError, wire.WireError):
                self._alive = False
                return False
            return True

    def is_alive(self) -> bool:
        """Whether it was there when it was last used, and its sandbox is."""
        return self._alive and self.sandbox.is_alive()

    def put_file(self, content: bytes) -> str:
        """Place a file in the sandbox, once however often it is asked for.

        Returns:
            Its path inside.
        """
        name = hashlib.sha256(content).hexdigest()[:32]
        with self._lock:
            if name not in self._files:
                path = f"{self.sandbox.run_dir}/files/{name}"
                self.sandbox.write_file(path, content)
                self._files[name] = path
            return self._files[name]

    def kill_strays(self) -> None:
        """Kill all that it and its environments have started. Only where it has just one."""
        with contextlib.suppress(RockGymError, OSError):
            self._process.kill_descendants(9)

    def close(self) -> None:
        """Kill it and its environments. Twice is fine."""
        self._alive = False
        self._control.close()
        with contextlib.suppress(RockGymError, OSError):
            self._process.kill()
            self._process.close()

    def _gone(self) -> SandboxLost:
        self._alive = False
        return _lost(self.sandbox)

    def _drop(self) -> None:
        """Let go of the sockets, in a forked child: they are the parent's."""
        self._alive = False
        self._control.close()
        self._process.close()


def _open_process(sandbox: Sandbox, python: GuestPython) -> tuple[Process, socket.socket | Line]:
    settings = {
        "run_dir": sandbox.run_dir,
        "site_dirs": python.site_dirs,
        "cache": python.cache,
    }
    environ = dict(_ENVIRONMENT)
    if python.nltk_data:
        environ["NLTK_DATA"] = os.pathsep.join(python.nltk_data)
    flags = _FLAGS[1:] if python.finds_packages else _FLAGS
    argv = [python.executable, *flags, "-c", _BOOT, json.dumps(settings)]
    try:
        if not sandbox.capabilities.sockets:
            return sandbox.open_line(argv, env=environ)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                return sandbox.open(argv, env=environ, channel=theirs), ours
            except BaseException:
                ours.close()
                raise
    except FileError as error:
        raise EnvUnavailable(
            f"{python.executable} is not there inside the sandbox: "
            + (python.remedy or f"make the pool with read_only={python.read_only}"),
            sandbox_id=sandbox.id,
        ) from error


def _last_output(process: Process) -> str:
    output = b""
    with contextlib.suppress(SandboxLost):
        while process.exit_code is None:
            parts = process.receive(_PING_S)
            if not parts:
                break
            output += b"".join(data for stream, data in parts if stream == STDERR)
    return output[-_OUTPUT_BYTES:].decode("utf-8", "replace")


def _lost(sandbox: Sandbox) -> SandboxLost:
    return SandboxLost(
        "the sandbox is gone, or its GEM process is: it ended or was killed from outside; "
        "reset makes a new one",
        sandbox_id=sandbox.id,
    )
