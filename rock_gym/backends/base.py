"""What a backend is: it starts containers, and a container opens live processes with byte streams.

Everything else (one-shot commands, bash sessions, the GEM guest) is built once, above this seam,
and is the same on every backend. Backends know containers and nothing of GEM.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from rock_gym.spec import SandboxSpec

STDOUT = 1
STDERR = 2
CONTROL = 3

# A process finds the socket that `open(channel=...)` passed at this descriptor.
CHANNEL_FD = 3


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do here, so that callers and ``doctor`` need not guess.

    Attributes:
        sockets: ``open(channel=...)`` hands a connected socket to the process; else ``open_line``
            gives one that leads here.
        control: ``open(control=True)`` gives a stream for end markers apart from the output.
        memory: Who holds the memory limit: ``"cgroup"``, ``"rlimit"`` (per process) or ``"none"``.
        cpu: Who holds the CPU limit: ``"cgroup"`` or ``"none"``.
        pids: Who holds the limit on processes: ``"cgroup"``, ``"rlimit"`` or ``"none"``.
        disk: Who holds the disk limit: ``"tmpfs"``, ``"quota"`` or ``"none"``.
    """

    sockets: bool
    control: bool
    memory: str
    cpu: str
    pids: str
    disk: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a sandbox uses at the moment. None stands for what its backend cannot tell.

    Attributes:
        cpu_s: CPU seconds used. Of all processes since the start where a cgroup counts them, else
            of those that live and of the children they have waited for.
        memory_bytes: Memory of its processes, and files that are kept in memory.
        memory_limit_bytes: What that may become; None without a limit.
        disk_bytes: What its files take.
        disk_limit_bytes: What they may take; None without a limit.
        processes: How many processes ``ps`` inside would show, the library's own among them.
        network_rx_bytes: Bytes received over its network, loopback apart.
        network_tx_bytes: Bytes sent over its network, loopback apart.
    """

    cpu_s: float | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    disk_bytes: int | None = None
    disk_limit_bytes: int | None = None
    processes: int | None = None
    network_rx_bytes: int | None = None
    network_tx_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CommittedImage:
    """An image that was made of a sandbox.

    Attributes:
        name: What sandboxes are started of it by.
        size_bytes: What it holds, the image it is based on included.
    """

    name: str
    size_bytes: int


class Process(Protocol):
    """A live process in a container.

    Not safe for concurrent readers: whoever owns the process holds its own lock.
    """

    @property
    def exit_code(self) -> int | None:
        """The exit code, 128 + n after signal n, or None while it runs or was not yet seen to end.

        It becomes known in ``receive`` or ``wait``, never on its own.
        """

    def send(self, data: bytes, timeout_s: float | None = None) -> None:
        """Write all of ``data`` to its standard input.

        Raises:
            TimeoutError: If it does not read in time.
            BrokenPipeError: If it has closed its input or ended.
        """

    def close_stdin(self) -> None:
        """Give it an end of file on its standard input. Twice is fine."""

    def receive(self, timeout_s: float | None = None) -> list[tuple[int, bytes]]:
        """Wait for output, and return what is there as (stream, bytes) pairs.

        Streams are STDOUT, STDERR and CONTROL. What the process wrote before it wrote to CONTROL
        comes no later than that. When the process has ended, all it wrote is returned, then
        ``exit_code`` is set and further calls return an empty list at once. A child that keeps a
        stream open does not delay that.

        Returns:
            What arrived; empty when the time ran out or the process has ended.

        Raises:
            SandboxLost: If the container died, so that no exit code will ever come.
        """

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end, without reading. Returns the exit code, or None in time-out.

        Raises:
            SandboxLost: If the container died, so that no exit code will ever come.
        """

    def children(self) -> frozenset[int]:
        """Return identifiers of its present direct children, for ``kill_descendants(spare=)``."""

    def kill_descendants(self, number: int, spare: frozenset[int] = frozenset()) -> int:
        """Signal all its descendants but those in ``spare`` and below them.

        Orphans count: a process in a container adopts what its descendants leave behind. After
        SIGKILL it returns when they have ended.

        Returns:
            How many were signalled.
        """

    def kill(self) -> None:
        """Kill it and all its descendants. Never waits, and twice is fine."""

    def close(self) -> None:
        """Give up the streams, without killing anything. Twice is fine."""


class Line(Protocol):
    """Our end of a byte stream to a process inside, where sockets cannot be passed into containers.

    It does what a socket that does not block does, and what else is done with one there.
    """

    @property
    def heard(self) -> bool:
        """Whether anything has come from the other end."""

    @property
    def pid(self) -> int | None:
        """The process that writes there, by the id it has inside; None until it is known."""

    def fileno(self) -> int:
        """A descriptor that poll(2) calls readable when ``recv`` has something; -1 once closed."""

    def poll(self, timeout_ms: int | None) -> bool:
        """Wait until ``recv`` has something, or its end. None waits for ever."""

    def poll_room(self, timeout_ms: int | None) -> bool:
        """Wait until ``send`` takes something. None waits for ever."""

    def recv(self, count: int) -> bytes:
        """Take up to ``count`` bytes of what is there; none at its end.

        Raises:
            BlockingIOError: If there is nothing yet.
        """

    def send(self, data: bytes | memoryview) -> int:
        """Send as much as there is room for, and return how much that was.

        Raises:
            BlockingIOError: If there is no room.
            BrokenPipeError: If the other end is gone.
        """

    def pass_line(self, data: bytes) -> Line:
        """Send a message, and with it one end of a new socket. Returns our end of that.

        Raises:
            BrokenPipeError: If the other end is gone.
        """

    def is_there(self) -> bool:
        """Ask whether the other end is there, which what was sent last does not tell."""

    def kill(self) -> None:
        """Kill the process that writes at the other end, and all below it. Never waits."""

    def close(self) -> None:
        """Hang up. Twice is fine."""


class FileWriter(Protocol):
    """A file on its way into a container: appears under its name whole, or not at all."""

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            FileError: If the file system is full.
        """

    def commit(self) -> None:
        """Put the file in place, replacing what was there.

        Raises:
            FileError: If it cannot be put there.
        """

    def abort(self) -> None:
        """Remove what was written. Does nothing after ``commit``, and twice is fine."""


class Container(Protocol):
    """A started container. All methods may be called from any thread."""

    @property
    def id(self) -> str:
        """The sandbox id it was started for."""

    @property
    def workdir(self) -> str:
        """Where relative paths and new processes start."""

    @property
    def run_dir(self) -> str:
        """A directory for the library's own files, writable, not backed by the image."""

    @property
    def shell(self) -> str:
        """The path of bash where the image has it, else of its POSIX shell."""

    @property
    def script_dir(self) -> str | None:
        """Where the names ``bash`` and ``sh`` are links to descriptor SCRIPT_FD, or None.

        A shell that runs its own name there as a script takes its commands from that descriptor,
        calls itself by that name, and leaves its standard input to the commands.
        """

    @property
    def takes_sockets(self) -> bool:
        """Whether ``open(channel=...)`` works, which may be asked for one container alone."""

    @property
    def environ(self) -> Mapping[str, str]:
        """What a process gets for its environment unless it is given more."""

    def open(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bool = False,
        script: bool = False,
        merge_stderr: bool = False,
        control: bool = False,
        channel: socket.socket | None = None,
    ) -> Process:
        """Start a process inside.

        Args:
            argv: The program, looked up on PATH unless it holds a slash, and its arguments.
            env: Variables that are added to ``environ``.
            cwd: Where it starts, relative to ``workdir``.
            stdin: Whether it gets a pipe for its standard input, or else ``/dev/null``.
            script: Whether ``send`` goes to SCRIPT_FD instead, its standard input being
                ``/dev/null``, and it starts in ``script_dir`` once ``cwd`` has proved good.
            merge_stderr: Whether its standard error goes where its standard output goes.
            control: Whether it gets a CONTROL stream, for writing, at descriptor CONTROL_FD.
            channel: A connected socket, which it gets at descriptor CHANNEL_FD. The caller
                closes its own copy.

        Raises:
            FileError: If the program or ``cwd`` is not there or cannot be used.
            SandboxLost: If the container has died.
            SandboxClosed: If the container was killed by us.
        """

    def open_line(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> tuple[Process, Line]:
        """Start a process that finds a socket at CHANNEL_FD, and return our end of that too.

        Only where ``Capabilities.sockets`` is false. Arguments and errors are those of ``open``.
        """

    def open_read(self, path: str) -> IO[bytes]:
        """Open a regular file inside for reading, unbuffered and seekable.

        Raises:
            FileError: If it is not there, not a regular file, or not readable inside.
        """

    def open_write(self, path: str, *, mode: int | None = None) -> FileWriter:
        """Begin a file inside; parents are made, and the old file stays until ``commit``.

        Args:
            path: Relative to ``workdir`` or absolute.
            mode: Its permission bits; None keeps those of a file that it replaces, else 0o644.

        Raises:
            FileError: If it cannot be made there.
        """

    def commit(self, name: str) -> CommittedImage:
        """Keep its files as an image. It goes on running.

        Raises:
            SpecError: If it is no name for an image, or the files cannot be kept.
            SandboxLost: If the container has died.
            SandboxClosed: If the container was killed by us.
        """

    def is_alive(self) -> bool:
        """Whether it still runs. Never waits."""

    def why_ended(self) -> str:
        """Say why it no longer runs, in words that follow "the sandbox is gone:"."""

    def kill(self) -> None:
        """End the container and all in it, at once. Twice is fine."""


# Where a process opened with control=True finds that stream. Dash takes one digit only, and
# scripts like to use 3 and 4 for themselves.
CONTROL_FD = 9

# Where a shell opened with script=True finds its commands. It opens them anew, and closes this.
SCRIPT_FD = 8


class Backend(Protocol):
    """Starts containers. All methods may be called from any thread."""

    @property
    def name(self) -> str:
        """The name users know it by, such as ``"bubblewrap"``."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do here."""

    def check(self, spec: SandboxSpec) -> None:
        """Refuse a spec that can never be started here, before anything is started.

        Raises:
            SpecError: If the backend cannot do what the spec asks for.
            ImageNotFound: If it has no such image.
        """

    def start(self, spec: SandboxSpec, sandbox_id: str, timeout_s: float = 60.0) -> Container:
        """Start a container and return once it takes commands.

        Raises:
            SpecError: As ``check``.
            ImageNotFound: As ``check``.
            BackendUnavailable: If this machine cannot run this kind of container.
            StartFailed: If this one did not come up.
        """

    def close(self) -> None:
        """Kill every container that is left and free what the backend holds. Twice is fine."""
