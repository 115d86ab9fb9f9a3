"""The child that copies what a sandbox has written into a layer of the store.

It reads the upper directory of the sandbox's overlay while the sandbox goes on, so nothing that it
finds there can be trusted: it goes from directory to directory by descriptors, follows no link,
opens nothing but regular files and directories, and is bounded by the size of the sandbox's tmpfs,
as holes stay holes.
"""

import errno
import os
import socket
import stat

import inside
import linux
import overlay
from packets import pass_file
from trees import read_link

MAX_DEPTH = 256
SMALL_BYTES = 65536
CHUNK_BYTES = 1 << 24
BLOCK_BYTES = 512

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


def run(mounts: int, target: int, sock: socket.socket, request: dict) -> None:
    """Copy, and tell the size of the files. Never returns.

    Args:
        mounts: The namespace that the overlay was mounted in.
        target: An empty directory.
        sock: The owner's.
        request: That which the sandbox was started by.
    """
    try:
        inside.keep_only(mounts, target, sock.fileno())
        linux.setns(mounts, linux.CLONE_NEWNS)
        os.umask(0)
        copy = _Copy(target, request["kuid"], request["run_dir"].strip("/"))
        source = os.open(overlay.UPPER, _DIRECTORY)
        copy.limit_to(os.fstatvfs(source))
        copy.directory(source, target, "", 0)
        # Whoever owns the store has to be able to enter, whatever the sandbox's root says.
        os.fchmod(target, stat.S_IMODE(os.fstat(target).st_mode) | stat.S_IRWXU)
        pass_file(sock, {"size": copy.size}, -1)
    except OSError as error:
        pass_file(sock, {"error": errno.errorcode.get(error.errno or 0, str(error))}, -1)
    finally:
        os._exit(0)


class _Copy:
    """One copy.

    Args:
        target: Its root.
        base: What the sandbox's root user is called outside; None if that is ourselves.
        skipped: A path that is left empty.
    """

    def __init__(self, target: int, base: int | None, skipped: str) -> None:
        self.size = 0
        self._bytes_left = self._entries_left = 0
        self._target = target
        self._base = base
        self._skipped = skipped
        self._linked: dict[int, str] = {}
        # The kernel lets only the mounter's own kind of these be seen and set.
        self._own = "user.overlay." if base is None else "trusted.overlay."

    def limit_to(self, disk: os.statvfs_result) -> None:
        """Copy no more than there can be at any one moment.

        A sandbox that empties what was copied and fills what comes next would have no end.
        """
        self._bytes_left = disk.f_blocks * disk.f_frsize
        self._entries_left = disk.f_files

    def _take(self, size: int, entries: int = 0) -> None:
        self._bytes_left -= size
        self._entries_left -= entries
        if self._bytes_left < 0 or self._entries_left < 0:
            raise OSError(errno.EFBIG, "its files change faster than they can be copied")

    def directory(self, source: int, target: int, path: str, depth: int) -> None:
        """Copy what is in a directory, and then what it is itself."""
        if depth > MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, "directories are nested too deeply")
        if path != self._skipped:
            for name in os.listdir(source):
                inner = f"{path}/{name}" if path else name
                try:
                    found = os.stat(name, dir_fd=source, follow_symlinks=False)
                    self._entry(source, target, name, inner, found, depth)
                except OSError as error:
                    # It goes on living, and what was there a moment ago may be gone.
                    if error.errno not in _GONE:
                        raise
        self._attributes(source, target)
        self._finish(target, os.fstat(source))

    def _entry(
        self, source: int, target: int, name: str, path: str, found: os.stat_result, depth: int
    ) -> None:
        kind = found.st_mode
        self._take(0, entries=1)
        if stat.S_ISDIR(kind):
            inner = os.open(name, _DIRECTORY, dir_fd=source)
            try:
                os.mkdir(name, 0o700, dir_fd=target)
                made = os.open(name, _DIRECTORY, dir_fd=target)
                try:
                    self.directory(inner, made, path, depth + 1)
                finally:
                    os.close(made)
            finally:
                os.close(inner)
        elif stat.S_ISREG(kind):
            self._file(source, target, name, path)
        elif stat.S_ISLNK(kind):
            os.symlink(read_link(name, source), name, dir_fd=target)
            self._place(target, name, found)
        elif stat.S_ISCHR(kind) and found.st_rdev == 0:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)  # it hides a file of a lower layer
        elif stat.S_ISFIFO(kind):
            os.mkfifo(name, 0o600, dir_fd=target)
            self._place(target, name, found)
            os.chmod(name, stat.S_IMODE(kind), dir_fd=target)

    def _file(self, source: int, target: int, name: str, path: str) -> None:
        file = os.open(name, _FILE, dir_fd=source)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                return
            if found.st_nlink > 1 and found.st_ino in self._linked:
                os.link(
                    self._linked[found.st_ino], name, src_dir_fd=self._target, dst_dir_fd=target
                )
                return
            made = os.open(name, _NEW, 0o600, dir_fd=target)
            try:
                self._copy_content(file, made, found.st_size)
                self._attributes(file, made)
                self._finish(made, found)
            finally:
                os.close(made)
            self.size += min(found.st_size, found.st_blocks * BLOCK_BYTES)
            if found.st_nlink > 1:
                self._linked[found.st_ino] = path
        finally:
            os.close(file)

    def _copy_content(self, source: int, target: int, size: int) -> None:
        """Copy a file that may change meanwhile: never more than it had, and holes stay holes."""
        if size <= SMALL_BYTES:
            data = os.read(source, size)
            self._take(len(data))
            while data:
                data = data[os.write(target, data) :]
            return
        os.ftruncate(target, size)
        start = 0
        while start < size:
            try:
                start = os.lseek(source, start, os.SEEK_DATA)
                end = min(size, os.lseek(source, start, os.SEEK_HOLE))
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # nothing but a hole is left
                raise
            os.lseek(target, start, os.SEEK_SET)
            while start < end:
                count = os.sendfile(target, source, start, min(end - start, CHUNK_BYTES))
                if count == 0:
                    return
                start += count
                self._take(count)

    def _attributes(self, source: int, target: int) -> None:
        """Copy extended attributes: those of users, and that which makes a directory opaque."""
        for name in os.listxattr(source):
            opaque = name == f"{self._own}opaque"
            if opaque or (name.startswith("user.") and not name.startswith("user.overlay.")):
                os.setxattr(target, name, os.getxattr(source, name))

    def _owner(self, found: os.stat_result) -> tuple[int, int]:
        base = self._base or 0
        ids = (found.st_uid - base, found.st_gid - base)
        # Not the sandbox's: made by the overlay itself.
        uid, gid = (number if 0 <= number < overlay.IDS else 0 for number in ids)
        return uid, gid

    def _place(self, target: int, name: str, found: os.stat_result) -> None:
        if self._base is not None:
            os.chown(name, *self._owner(found), dir_fd=target, follow_symlinks=False)
        times = (found.st_atime_ns, found.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)

    def _finish(self, target: int, found: os.stat_result) -> None:
        if self._base is not None:
            os.fchown(target, *self._owner(found))
        os.fchmod(target, stat.S_IMODE(found.st_mode))
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
