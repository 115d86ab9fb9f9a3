"""What a backend is: it starts containers, and a container opens live processes with byte streams.

Everything else (one-shot commands, bash sessions, the GEM guest) is built once, above this seam,
and is the same on every backend. Backends know containers and nothing of GEM.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from rock_gym.backends.handles import (
    FileWriter,
    Line,
    Process,
    Terminal,
    TreeReader,
    TreeWriter,
)
from rock_gym.spec import SandboxSpec


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
class LimitHits:
    """How often a container has run into limits since it started. Numbers that only grow.

    Attributes:
        oom: Processes that the kernel has killed because the memory limit was reached.
        pids: New processes or threads that it refused because of the limit on them.
    """

    oom: int = 0
    pids: int = 0


@dataclass(frozen=True, slots=True)
class CommittedImage:
    """An image that was made of a sandbox.

    Attributes:
        name: What sandboxes are started of it by.
        size_bytes: What it holds, the image it is based on included.
    """

    name: str
    size_bytes: int


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
    def limits_disk(self) -> bool:
        """Whether what it may write is limited, which may be asked for one container alone."""

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

        Only where ``takes_sockets`` is false. Arguments and errors are those of ``open``.
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

    def read_tree(self, path: str) -> TreeReader:
        """Begin to read a file, or a folder with all that is in it.

        Raises:
            FileError: If it is not there, neither a file nor a folder, or not readable inside.
            SandboxLost: If the container has died.
            SandboxClosed: If the container was killed by us.
        """

    def write_tree(self, path: str) -> TreeWriter:
        """Begin to write a file, or a folder with all that is in it; parents are made.

        Raises:
            FileError: If it cannot be made there.
            SandboxLost: If the container has died.
            SandboxClosed: If the container was killed by us.
        """

    def open_terminal(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        rows: int = 24,
        columns: int = 80,
    ) -> Terminal:
        """Start a process inside on a pseudo-terminal of the container's own.

        It leads a session, and the terminal controls it: Ctrl-C and hanging up do what they do
        elsewhere. Arguments and errors are those of ``open``.
        """

    def statistics(self) -> Statistics:
        """Tell what it uses at the moment. Never waits for anything inside; a dead one uses none.

        Raises:
            SandboxLost: If the container has died.
            SandboxClosed: If the container was killed by us.
        """

    def note_limits(self) -> Callable[[], LimitHits]:
        """Note how often it has run into limits before what is asked of it next.

        Cheap: done before every command. Never raises.

        Returns:
            What tells the numbers, to be called after ``limit_hits`` if at all.
        """

    def limit_hits(self) -> LimitHits:
        """Tell how often it has run into limits. Asked when something has failed.

        Without limits that the kernel counts for, the numbers stay 0. Never raises.
        """

    def limits_reached(self) -> frozenset[str]:
        """Tell which limits it is at right now: ``"pids"``, ``"disk"``, both or none.

        For limits that nobody counts hits of. Asked only after something has failed; never raises.
        """

    def commit(self, name: str) -> CommittedImage:
        """Make an image of its files as they are now, under a name; it goes on running.

        The image takes the place of another one of that name. A file that is written to meanwhile
        may be in it half written.

        Raises:
            SpecError: If the name is none, or its own image is one that nothing can be based on.
            ImageError: If the image could not be made.
            SandboxLost: If the container has died.
            SandboxClosed: If the container was killed by us.
        """

    def is_alive(self) -> bool:
        """Whether it still runs. Never waits."""

    def why_ended(self) -> str:
        """Say why it no longer runs, in words that follow "the sandbox is gone:"."""

    def stop(self) -> None:
        """End all processes in it at once, and keep its files for ``restart``. Twice is fine.

        Returns within two seconds, whatever runs inside.
        """

    def restart(self, timeout_s: float = 60.0) -> None:
        """Start it again, with the files it had, after ``stop`` or after it has died by itself.

        Raises:
            SandboxLost: If its files are gone.
            SandboxClosed: If it was killed by us.
            StartFailed: If it did not come up; its files are kept.
        """

    def kill(self) -> None:
        """End the container and all in it, at once, and free its files. Twice is fine."""


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
