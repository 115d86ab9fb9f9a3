"""What a backend is: it starts containers, and a container opens live processes with byte streams.

Everything else (one-shot commands, bash sessions, the GEM guest) is built once, above this seam,
and is the same on every backend. Backends know containers and nothing of GEM.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Literal, Protocol

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
class LimitHits:
    """How often a container has run into limits since it started. Numbers that only grow.

    Attributes:
        oom: Processes that the kernel has killed because the memory limit was reached.
        pids: New processes or threads that it refused because of the limit on them.
    """

    oom: int = 0
    pids: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or link of a tree that is copied.

    Attributes:
        path: Relative to the root of the tree, without ``.`` and ``..``; empty for the root.
        kind: What it is; ``"other"`` is a pipe, a socket or a device.
        mode: Permission bits.
        mtime_ns: When it was changed, in nanoseconds since the epoch.
        size: Bytes of a file.
        target: Where a link points to, as it stands in the link.
    """

    path: str
    kind: Literal["file", "directory", "link", "other"]
    mode: int = 0o755
    mtime_ns: int = 0
    size: int = 0
    target: str = ""


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


class TreeReader(Protocol):
    """A file, or a folder with all that is in it, on its way out of a container.

    An iterator over the entries, parents before what they hold. What comes out was made by whoever
    ran inside: the caller checks every path. Links are entries, and never followed.
    """

    @property
    def total_bytes(self) -> int:
        """The sizes of all its files, as they were at the beginning."""

    def __iter__(self) -> Iterator[tuple[Entry, IO[bytes] | None]]:
        """Go through the entries, each with its content if it is a file.

        The content is open for reading, unbuffered, and the caller's to close before it asks for
        the next entry. It may be longer or shorter than ``size``: files change.

        Raises:
            FileError: If something is not readable inside.
            SandboxLost: If the container died.
        """

    def close(self) -> None:
        """Give up. Twice is fine."""


class TreeWriter(Protocol):
    """A file, or a folder with all that is in it, on its way into a container.

    Entries come parents first; the first one is the root, whose path is empty. Nothing is placed
    outside of the root, whatever links are inside: a link where a folder is expected is an error,
    and a link where a file or a link is expected is replaced.
    """

    def add(self, entry: Entry) -> FileWriter | None:
        """Place an entry, replacing a file or link of that path; a folder may be there already.

        Returns:
            For a file, where its content goes, to be committed or aborted before the next entry.

        Raises:
            FileError: If it cannot be placed. May also be raised by a later call.
            SandboxLost: If the container died.
        """

    def finish(self) -> None:
        """Set modes and times of folders, and return when all is in place.

        Raises:
            FileError: If something could not be placed.
            SandboxLost: If the container died.
        """

    def abort(self) -> None:
        """Give up; what was placed stays. Does nothing after ``finish``, and twice is fine."""


class Terminal(Protocol):
    """A live process in a container whose standard streams are a pseudo-terminal of its own."""

    @property
    def exit_code(self) -> int | None:
        """As that of ``Process``; it becomes known in ``wait``."""

    def fileno(self) -> int:
        """A descriptor that poll(2) calls readable when there is output, or at its end."""

    def read(self, count: int = 65536) -> bytes:
        """Wait for output and return up to ``count`` bytes; none at its end."""

    def write(self, data: bytes) -> None:
        """Type all of ``data``.

        Raises:
            BrokenPipeError: If the process has ended.
        """

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the terminal, of which the process is told by SIGWINCH."""

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end of the process. Returns the exit code, or None in time-out.

        Raises:
            SandboxLost: If the container died, so that no exit code will ever come.
        """

    def kill(self) -> None:
        """Kill the process and all its descendants. Never waits, and twice is fine."""

    def close(self) -> None:
        """Hang up, which ends what listens to SIGHUP. Twice is fine."""


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
