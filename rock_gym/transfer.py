"""Files in and out of a sandbox: whole ones, and folders with their links, modes and times.

Whatever is in a sandbox was made by somebody else. A download therefore goes by descriptors on this
side, too: it never follows a link, whether that came out of the sandbox or lay here before, and by
default refuses links that lead out of the folder, since what reads the copy would follow them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

from rock_gym.backends.base import Container
from rock_gym.backends.handles import Entry, FileWriter, TreeReader, TreeWriter
from rock_gym.backends.launcher import trees
from rock_gym.errors import FileError, SpecError

_CHUNK_BYTES = 1 << 20

# A file that says it is empty may be one that the kernel makes up.
_UNKNOWN_BYTES = 1 << 20

Progress = Callable[[int, int], None]
OutwardLinks = Literal["refuse", "skip", "keep"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """What an upload or a download has copied.

    Attributes:
        files: How many files.
        folders: How many folders.
        links: How many links.
        bytes: How much content.
        skipped: Paths in the folder of what was left out: pipes, sockets and devices, and links
            that lead out of it if they were to be skipped.
    """

    files: int
    folders: int
    links: int
    bytes: int
    skipped: tuple[str, ...]


def read_file(container: Container, path: str, encoding: str | None) -> Any:
    """Read a file; see ``Sandbox.read_file``."""
    with container.open_read(check_path(path)) as file:
        chunks = []
        try:
            while chunk := file.read(_CHUNK_BYTES):
                chunks.append(chunk)
        except OSError as error:  # such as a file of /proc whose process has ended
            raise _file_error(error, path) from error
    data = b"".join(chunks)
    if encoding is None:
        return data
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path} is not {encoding} text ({error.reason} at byte {error.start}); "
            "read it with encoding=None for bytes",
            path=path,
            reason="not_text",
        ) from error
    except LookupError as error:
        raise SpecError(f"unknown encoding {encoding!r}") from error


def write_file(
    container: Container, path: str, content: str | bytes | IO[bytes], mode: int | None
) -> None:
    """Write a file; see ``Sandbox.write_file``."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    if isinstance(content, (bytes, bytearray, memoryview)):
        pieces = iter((bytes(content),))
    elif hasattr(content, "read"):
        pieces = iter(lambda: content.read(_CHUNK_BYTES), b"")
    else:
        kind = type(content).__name__
        raise SpecError(f"a file's content is str, bytes or a binary file, not {kind}")
    writer = container.open_write(check_path(path), mode=mode)
    try:
        for piece in pieces:
            writer.write(piece)
        writer.commit()
    finally:
        writer.abort()


def upload(container: Container, local: str, remote: str, progress: Progress | None) -> Transfer:
    """Copy a file or folder into a sandbox; see ``Sandbox.upload``."""
    with _local_errors(local):
        root = trees.open_root(local)
    try:
        with _local_errors(local):
            copy = _Copy(trees.total_bytes(root), progress)
        writer = container.write_tree(check_path(remote))
        try:
            _send(root, local, writer, copy)
            writer.finish()
        finally:
            writer.abort()
    finally:
        os.close(root)
    return copy.summary()


def _send(root: int, local: str, writer: TreeWriter, copy: _Copy) -> None:
    walk = trees.walk(root)
    with closing(walk):
        while True:
            with _local_errors(local):
                found, fd = next(walk, (None, -1))
            if found is None:
                return
            entry = Entry(*found)
            if entry.kind == "other":
                copy.skip(entry)
            elif entry.kind == "file":
                with os.fdopen(fd, "rb", buffering=0) as source:
                    file = writer.add(entry)
                    assert file is not None
                    _fill(source, file, entry, os.path.join(local, entry.path), copy)
            else:
                writer.add(entry)
                copy.count(entry)


def download(
    container: Container,
    remote: str,
    local: str,
    progress: Progress | None,
    outward_links: OutwardLinks,
) -> Transfer:
    """Copy a file or folder out of a sandbox; see ``Sandbox.download``."""
    if outward_links not in ("refuse", "skip", "keep"):
        raise SpecError(f"outward_links is 'refuse', 'skip' or 'keep', not {outward_links!r}")
    reader = container.read_tree(check_path(remote))
    with closing(reader):
        copy = _Copy(reader.total_bytes, progress)
        with _local_errors(local):
            builder = trees.Builder(local)
        with closing(builder):
            _receive(reader, remote, local, builder, copy, outward_links)
            with _local_errors(local):
                builder.finish()
    return copy.summary()


def _receive(
    reader: TreeReader,
    remote: str,
    local: str,
    builder: trees.Builder,
    copy: _Copy,
    outward_links: OutwardLinks,
) -> None:
    first = True
    for entry, source in reader:
        if bool(entry.path) == first:
            raise FileError(f"{remote} came out in disorder", path=remote, reason="EPROTO")
        first = False
        if entry.kind == "other" or (outward_links == "skip" and _leads_out(entry)):
            copy.skip(entry)
            continue
        if outward_links == "refuse" and _leads_out(entry):
            raise FileError(
                f"{_join(remote, entry)} is a link to {entry.target!r}, out of the folder; pass "
                "outward_links='skip' to leave such links out, or 'keep' to keep them",
                path=_join(remote, entry),
                reason="outward_link",
            )
        with _local_errors(local):
            if entry.kind == "directory":
                builder.directory(entry.path, entry.mode, entry.mtime_ns)
            elif entry.kind == "link":
                builder.link(entry.path, entry.target, entry.mtime_ns)
        if entry.kind == "file":
            assert source is not None
            with source:
                with _local_errors(local):
                    placed = builder.file(entry.path, entry.mode, entry.mtime_ns)
                _fill(source, _LocalFile(placed, local), entry, _join(remote, entry), copy)
        else:
            copy.count(entry)


def _join(root: str, entry: Entry) -> str:
    return f"{root.rstrip('/')}/{entry.path}" if entry.path else root


def _leads_out(entry: Entry) -> bool:
    """Whether a link leads, or could lead, out of the folder that is copied.

    Only leading ``..`` are sure to mean the folder that the link lies in; after another name they
    mean what lies above whatever that name links to.
    """
    if entry.kind != "link":
        return False
    if entry.target.startswith("/"):
        return True
    names = [name for name in entry.target.split("/") if name not in ("", ".")]
    ups = 0
    while ups < len(names) and names[ups] == "..":
        ups += 1
    return ups > entry.path.count("/") or ".." in names[ups:]


class _Copy:
    """Counts what is copied, and tells of it."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._counts = {"file": 0, "directory": 0, "link": 0}
        self._bytes = 0
        self._skipped: list[str] = []
        self.advance(0)

    def advance(self, count: int) -> None:
        self._bytes += count
        if self._progress is not None:
            # Files may have grown since they were added up.
            self._total = max(self._total, self._bytes)
            self._progress(self._bytes, self._total)

    def count(self, entry: Entry) -> None:
        self._counts[entry.kind] += 1

    def skip(self, entry: Entry) -> None:
        self._skipped.append(entry.path)

    def summary(self) -> Transfer:
        return Transfer(
            files=self._counts["file"],
            folders=self._counts["directory"],
            links=self._counts["link"],
            bytes=self._bytes,
            skipped=tuple(self._skipped),
        )


def _fill(source: IO[bytes], file: FileWriter, entry: Entry, path: str, copy: _Copy) -> None:
    """Copy a file's content, and put it in place."""
    # Not more than it had at first: one that grows for ever would never end.
    left = entry.size or _UNKNOWN_BYTES
    try:
        while left > 0:
            try:
                data = source.read(min(left, _CHUNK_BYTES))
            except OSError as error:
                raise _file_error(error, path) from error
            if not data:
                break
            file.write(data)
            left -= len(data)
            copy.advance(len(data))
        file.commit()
    finally:
        file.abort()
    copy.count(entry)


class _LocalFile:
    """A file on this side; see ``FileWriter``."""

    def __init__(self, file: trees.NewFile, path: str) -> None:
        self._file = file
        self._path = path

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        with _local_errors(self._path):
            while rest:
                rest = rest[os.write(self._file.fd, rest) :]

    def commit(self) -> None:
        with _local_errors(self._path):
            self._file.commit()

    def abort(self) -> None:
        self._file.abort()


@contextmanager
def _local_errors(path: str) -> Iterator[None]:
    """Turn what the system says of a local path into a FileError."""
    try:
        yield
    except OSError as error:
        raise _file_error(error, path) from error


def _file_error(error: OSError, path: str) -> FileError:
    shown = f"{path.rstrip('/')}/{error.filename}" if error.filename else path
    return FileError(
        f"{shown}: {error.strerror}",
        path=shown,
        reason=errno.errorcode.get(error.errno or 0, "EIO"),
    )


def check_path(path: str) -> str:
    """Return a path if it is one.

    Raises:
        SpecError: If it is empty, not a string, or holds a NUL.
    """
    if not isinstance(path, str) or not path or "\0" in path:
        raise SpecError(f"a path is a non-empty string without NUL, not {path!r}")
    return path


def check_local(path: str | os.PathLike[str]) -> str:
    """Return a local path as a string; raises as ``check_path``."""
    return check_path(os.fspath(path) if isinstance(path, os.PathLike) else path)
