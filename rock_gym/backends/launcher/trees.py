"""Going through a tree of files, and building one, by descriptors and without following links.

Both ends of a copy use it, each on its own side: no path of the one is ever resolved on the other
but step by step from the root's descriptor, so that nothing leads out, whatever is renamed
meanwhile. The owner imports this module, too; it leans on the standard library alone.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Generator, Iterator
from typing import Literal, NamedTuple

MAX_DEPTH = 256
MODE_BITS = 0o777
Kind = Literal["file", "directory", "link", "other"]


class Found(NamedTuple):
    """What is found in a tree; the fields are those of ``Entry`` in ``backends/base.py``."""

    path: str
    kind: Kind
    mode: int
    mtime_ns: int
    size: int
    target: str


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Have errors name a path of the tree, relative to its root, and nothing for the root."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = path or None, None
        raise


def look(path: str, info: os.stat_result, target: str = "") -> Found:
    """Describe a file, folder or link."""
    kinds: dict[int, Kind] = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "link",
    }
    kind = kinds.get(stat.S_IFMT(info.st_mode), "other")
    mode = stat.S_IMODE(info.st_mode) & MODE_BITS
    return Found(path, kind, mode, info.st_mtime_ns, info.st_size if kind == "file" else 0, target)


def open_root(path: str) -> int:
    """Open a file or a folder to read; the last link on the way to it is followed.

    Raises:
        OSError: If it cannot be opened, or is neither.
    """
    with named(""):
        # A pipe or a device could block or do something; O_NONBLOCK and the check prevent it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        if not stat.S_ISREG(mode := os.fstat(fd).st_mode) and not stat.S_ISDIR(mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "neither a file nor a folder")
    return fd


def total_bytes(root: int) -> int:
    """Add up the sizes of the files of a tree."""
    return sum(found.size for found, _ in walk(root, contents=False))


def walk(root: int, contents: bool = True) -> Generator[tuple[Found, int], None, None]:
    """Go through a tree, parents before what they hold, each folder in order of names.

    Args:
        root: A descriptor of a file or a folder.
        contents: Whether files are opened.

    Yields:
        What was found, and for a file its descriptor, which is the caller's to close, else -1.

    Raises:
        OSError: If something cannot be read; what vanishes meanwhile is left out.
    """
    info = os.fstat(root)
    found = look("", info)
    if found.kind == "file":
        yield found, os.dup(root) if contents else -1
        return
    yield found, -1
    levels = [(os.dup(root), "", iter(sorted(os.listdir(root))))]
    try:
        while levels:
            directory, prefix, names = levels[-1]
            name = next(names, None)
            if name is None:
                os.close(levels.pop()[0])
                continue
            path = prefix + name
            try:
                with named(path):
                    found, fd = _visit(directory, name, path, contents)
            except FileNotFoundError:
                continue
            if found.kind == "directory":
                with named(path):
                    levels.append((fd, f"{path}/", iter(())))
                    if len(levels) > MAX_DEPTH:
                        raise OSError(errno.ENAMETOOLONG, "too many folders in folders")
                    levels[-1] = (fd, f"{path}/", iter(sorted(os.listdir(fd))))
                fd = -1
            yield found, fd
    finally:
        for directory, _, _ in levels:
            os.close(directory)


def read_link(name: str, directory: int) -> str:
    """Read a link.

    Raises:
        FileNotFoundError: Also if it is no link any more, so that what was one is gone.
    """
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise FileNotFoundError(errno.ENOENT, "it is no link any more", name) from error


def _visit(directory: int, name: str, path: str, contents: bool) -> tuple[Found, int]:
    """Look at one name; a folder is opened, and a file if its content is wanted."""
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(info.st_mode):
        return look(path, info, read_link(name, directory)), -1
    if not stat.S_ISDIR(info.st_mode) and not (stat.S_ISREG(info.st_mode) and contents):
        return look(path, info), -1
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=directory)
    # By now it may be another thing of that name.
    found = look(path, os.fstat(fd))
    if found.kind == "other":
        os.close(fd)
        fd = -1
    return found, fd


def split(path: str) -> list[str]:
    """Return the names that a path inside a tree consists of.

    Raises:
        OSError: If it could lead out of the tree.
    """
    names = path.split("/") if path else []
    if any(name in ("", ".", "..") or "\0" in name for name in names) or len(names) > MAX_DEPTH:
        raise OSError(errno.EINVAL, "not a path inside of a folder")
    return names


class NewFile:
    """A file that appears under its name whole, or not at all."""

    def __init__(self, directory: int, name: str, path: str, mode: int, mtime_ns: int) -> None:
        self._directory = directory
        self._path = path
        self._name = name
        self._attributes = (mode, mtime_ns)
        self._temporary = f".rock-gym-{os.urandom(8).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.fd = os.open(self._temporary, flags, 0o600, dir_fd=directory)

    def commit(self) -> None:
        """Put it in place."""
        mode, mtime_ns = self._attributes
        try:
            with named(self._path):
                os.fchmod(self.fd, mode)
                os.utime(self.fd, ns=(mtime_ns, mtime_ns))
                places = {"src_dir_fd": self._directory, "dst_dir_fd": self._directory}
                os.rename(self._temporary, self._name, **places)
            self._temporary = ""
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove it, unless it is in place. Twice is fine."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._directory)
            self._temporary = ""


class Builder:
    """Builds a tree under a path; the first thing is the root, whose path is empty.

    A link is never followed: not below the root, and not the root itself.

    Args:
        path: Where the root is to be; what is missing on the way is made.
    """

    def __init__(self, path: str) -> None:
        parent, self._name = os.path.split(os.path.abspath(path))
        if not self._name:  # the root directory itself
            parent, self._name = "/", "."
        with named(""):
            os.makedirs(parent, exist_ok=True)
            fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # Of every folder on the way to where the last thing was placed, a descriptor.
        self._open = [(fd, "")]
        self._folders: list[tuple[str, int, int]] = []

    def directory(self, path: str, mode: int, mtime_ns: int) -> None:
        """Make a folder if there is none.

        Mode and time are set in the end, but not of a root that was there before.
        """
        with named(path):
            parent, name = self._place(path)
            made = True
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                made = False
            self._enter(name)
        if made or path:
            self._folders.append((path, mode, mtime_ns))

    def link(self, path: str, target: str, mtime_ns: int) -> None:
        """Make a link, in the place of a file or link of that name."""
        with named(path):
            parent, name = self._place(path)
            temporary = f".rock-gym-{os.urandom(8).hex()}"
            os.symlink(target, temporary, dir_fd=parent)
            try:
                os.utime(temporary, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except OSError:
                os.unlink(temporary, dir_fd=parent)
                raise

    def file(self, path: str, mode: int, mtime_ns: int) -> NewFile:
        """Begin a file, in the place of a file or link of that name; one at a time."""
        with named(path):
            parent, name = self._place(path)
            return NewFile(parent, name, path, mode, mtime_ns)

    def finish(self) -> None:
        """Set modes and times of the folders, the innermost first."""
        while self._folders:
            path, mode, mtime_ns = self._folders.pop()
            with named(path):
                parent, name = self._place(path)
                fd = _open_folder(parent, name)
                try:
                    os.fchmod(fd, mode)
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
                finally:
                    os.close(fd)

    def close(self) -> None:
        """Close its descriptors. Twice is fine."""
        while self._open:
            os.close(self._open.pop()[0])

    def _place(self, path: str) -> tuple[int, str]:
        """Return the folder that a path is in, and its name there."""
        names = [self._name, *split(path)]
        depth = 0
        while depth < len(names) - 1 and depth + 1 < len(self._open):
            if self._open[depth + 1][1] != names[depth]:
                break
            depth += 1
        while len(self._open) > depth + 1:
            os.close(self._open.pop()[0])
        for name in names[depth:-1]:
            self._enter(name)
        return self._open[-1][0], names[-1]

    def _enter(self, name: str) -> None:
        self._open.append((_open_folder(self._open[-1][0], name), name))


def _open_folder(parent: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)
