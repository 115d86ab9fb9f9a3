"""What a container opens for its users: processes, terminals and lines to them, files and trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal, Protocol

STDOUT = 1
STDERR = 2
CONTROL = 3

# A process finds the socket that `open(channel=...)` passed at this descriptor.
CHANNEL_FD = 3

# Where a process opened with control=True finds that stream. Dash takes one digit only, and
# scripts like to use 3 and 4 for themselves.
CONTROL_FD = 9

# Where a shell opened with script=True finds its commands. It opens them anew, and closes this.
SCRIPT_FD = 8


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
