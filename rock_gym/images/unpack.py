"""Unpacks one layer of a stranger's archive below a directory, and nothing anywhere else.

Every path is resolved by the kernel with that directory as its root, so that neither ``..`` nor a
link leads out of it, and the last part of a path is never followed. Devices are left out, and so
are extended attributes, among which those of overlayfs would be dangerous. Whiteouts become those
of overlayfs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import tarfile
from collections.abc import Sequence
from typing import IO

from rock_gym.errors import ImageError
from rock_gym.images import trees
from rock_gym.images.streams import CHUNK_BYTES, Tar

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_AUFS = ".wh..wh."

_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_NOBODY = 65534
_MAX_ID = 65535

# ELF's numbers of machines, by the OCI's names of architectures.
_MACHINES = {3: "386", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64", 21: "ppc64le"}
_PROGRAMS = ("bin", "sbin", "usr/bin", "usr/sbin")

_libc = ctypes.CDLL(None, use_errno=True)
_OpenHow = ctypes.c_uint64 * 3


def opaque_attribute() -> str:
    """Return the extended attribute by which overlayfs knows a directory that hides those below."""
    return "trusted.overlay.opaque" if os.geteuid() == 0 else "user.overlay.opaque"


def open_below(root: int, path: str, flags: int) -> int:
    """Open a path with a directory as its root.

    Raises:
        OSError: If it cannot be opened.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_NO_MAGICLINKS | _RESOLVE_IN_ROOT)
    name = os.fsencode(path)
    number = ctypes.c_long(_SYS_OPENAT2)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    fd: int = _libc.syscall(number, ctypes.c_int(root), name, ctypes.byref(how), size)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return fd


def parts_of(path: str) -> list[str]:
    """Return the parts of a path in an archive, which is below the root also if it begins with /.

    Raises:
        ImageError: If it goes up, or is absurdly deep.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        raise ImageError(f"the archive is hostile or broken: it has a path {path!r}")
    if len(parts) > trees.MAX_DEPTH:
        raise ImageError(f"the archive has paths of more than {trees.MAX_DEPTH} parts")
    return parts


class Unpacker:
    """Unpacks a layer.

    Args:
        root: An empty directory.
        lowers: Where the layers below are, lowest first: a folder that the archive implies but
            does not have gets its mode from there.
        owners: Whether files get their owners, which only root can give.

    Attributes:
        architecture: That of the first program found, or empty.
        size_bytes: What the files hold.
    """

    def __init__(self, root: str, lowers: Sequence[str], owners: bool) -> None:
        self.architecture = ""
        self.size_bytes = 0
        self._flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._root = os.open(root, self._flags)
        self._lowers = [os.open(path, self._flags) for path in reversed(lowers)]
        self._owners = owners
        self._folders: dict[str, tarfile.TarInfo] = {}
        self._parent = ""
        self._parent_fd = self._root

    def run(self, tar: Tar) -> None:
        """Unpack all of it.

        Raises:
            ImageError: If the archive is hostile or broken.
            OSError: If the disk is full.
        """
        try:
            for entry, content in tar:
                self._place(entry, content)
            self._finish_folders()
        finally:
            self._leave_parent()
            for fd in (self._root, *self._lowers):
                os.close(fd)

    def _place(self, entry: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        parts = parts_of(entry.name)
        if not parts:
            if entry.isdir():
                self._folders[""] = entry
            return
        try:
            parent = self._enter("/".join(parts[:-1]))
            if parts[-1].startswith(WHITEOUT):
                self._hide(parent, parts[-1])
            else:
                self._make(parent, parts, entry, content)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ImageError(
                f"the archive is hostile or broken: {entry.name!r} cannot be placed: "
                f"{error.strerror}"
            ) from error

    def _make(
        self, parent: int, parts: list[str], entry: tarfile.TarInfo, content: IO[bytes] | None
    ) -> None:
        name = parts[-1]
        if "\0" in entry.linkname:
            raise ImageError(f"the archive is hostile or broken: it links to {entry.linkname!r}")
        if entry.isdir():
            self._make_folder(parent, name, "/".join(parts), entry)
            return
        if not (entry.isreg() or entry.islnk() or entry.issym() or entry.isfifo()):
            return  # a device: of no use inside, and a danger outside
        self._clear(parent, name, "/".join(parts))
        if content is not None:
            self._write(parent, parts, entry, content)
        elif entry.islnk():
            self._link(parent, name, entry)
        elif entry.issym():
            os.symlink(entry.linkname, name, dir_fd=parent)
            self._own(parent, name, entry)
            self._date(parent, name, entry)
        else:
            os.mkfifo(name, 0o600, dir_fd=parent)
            self._own(parent, name, entry)
            os.chmod(name, entry.mode & 0o7777, dir_fd=parent)

    def _write(
        self, parent: int, parts: list[str], entry: tarfile.TarInfo, content: IO[bytes]
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(parts[-1], flags, 0o600, dir_fd=parent)
        try:
            data = content.read(CHUNK_BYTES)
            if not self.architecture and "/".join(parts[:-1]) in _PROGRAMS:
                self.architecture = machine_of(data)
            while data:
                self.size_bytes += len(data)
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                data = content.read(CHUNK_BYTES)
            if self._owners:
                os.fchown(fd, _id(entry.uid), _id(entry.gid))
            os.fchmod(fd, entry.mode & 0o7777)
            os.utime(fd, ns=_times(entry))
        finally:
            os.close(fd)

    def _link(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        target = parts_of(entry.linkname)
        if not target:
            raise ImageError(f"the archive is broken: {entry.name!r} is a link to nothing")
        flags = os.O_PATH | os.O_DIRECTORY
        fd = open_below(self._root, "/".join(target[:-1]) or ".", flags)
        try:
            os.link(target[-1], name, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(fd)

    def _make_folder(self, parent: int, name: str, path: str, entry: tarfile.TarInfo) -> None:
        found = _lstat(parent, name)
        if found is None or not stat.S_ISDIR(found.st_mode):
            self._clear(parent, name, path)
            os.mkdir(name, 0o700, dir_fd=parent)
            if found is not None and _is_whiteout(found):
                # Removed and made anew: what the layers below have in it is not to be seen.
                self._make_opaque(parent, name)
        self._folders[path] = entry

    def _clear(self, parent: int, name: str, path: str) -> None:
        """Remove what a later entry of the same layer replaces."""
        found = _lstat(parent, name)
        if found is None:
            return
        if stat.S_ISDIR(found.st_mode):
            self._forget_folders(path)
        trees.remove(name, parent)

    def _forget_folders(self, path: str) -> None:
        """Forget a folder and those in it. Looks at what is there, not at all that is known."""
        waiting = [path]
        while waiting:
            folder = waiting.pop()
            self._folders.pop(folder, None)
            fd = open_below(self._root, folder, self._flags)
            try:
                with os.scandir(fd) as children:
                    waiting += [
                        f"{folder}/{child.name}"
                        for child in children
                        if child.is_dir(follow_symlinks=False)
                    ]
            finally:
                os.close(fd)

    def _hide(self, parent: int, marker: str) -> None:
        name = marker.removeprefix(WHITEOUT)
        if name in ("", ".", ".."):
            raise ImageError(f"the archive is hostile or broken: it has {marker!r}")
        if not self._lowers:
            return
        if marker == OPAQUE:
            _set_opaque(parent)
        elif not marker.startswith(_AUFS) and _lstat(parent, name) is None:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)

    def _make_opaque(self, parent: int, name: str) -> None:
        fd = os.open(name, self._flags, dir_fd=parent)
        try:
            _set_opaque(fd)
        finally:
            os.close(fd)

    # Folders

    def _enter(self, path: str) -> int:
        """Return a descriptor of a folder, which is made if it is not there."""
        if path != self._parent:
            self._leave_parent()
            if path:
                try:
                    self._parent_fd = open_below(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
                except (FileNotFoundError, NotADirectoryError):
                    self._parent_fd = self._make_implied(path)
            self._parent = path
        return self._parent_fd

    def _leave_parent(self) -> None:
        if self._parent_fd != self._root:
            os.close(self._parent_fd)
        self._parent, self._parent_fd = "", self._root

    def _make_implied(self, path: str) -> int:
        done = ""
        for part in path.split("/"):
            parent = open_below(self._root, done or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                done = f"{done}/{part}" if done else part
                found = _lstat(parent, part)
                if found is not None and _is_whiteout(found):
                    self._make_folder(parent, part, done, self._implied(done))
                elif found is None:
                    os.mkdir(part, 0o700, dir_fd=parent)
                    self._folders[done] = self._implied(done)
            finally:
                os.close(parent)
        return open_below(self._root, path, os.O_RDONLY | os.O_DIRECTORY)

    def _implied(self, path: str) -> tarfile.TarInfo:
        """Describe a folder that only the path of something in it tells of."""
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        for lower in self._lowers:
            try:
                fd = open_below(lower, path, os.O_PATH | os.O_DIRECTORY)
            except OSError:
                continue
            found = os.fstat(fd)
            os.close(fd)
            entry.mode, entry.mtime = stat.S_IMODE(found.st_mode), found.st_mtime
            entry.uid, entry.gid = found.st_uid, found.st_gid
            break
        return entry

    def _finish_folders(self) -> None:
        """Give folders their modes, which may forbid us to go on, and their times."""
        root = self._folders.pop("", None)
        for path in sorted(self._folders, key=lambda path: path.count("/"), reverse=True):
            fd = open_below(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._finish(fd, self._folders[path], 0)
            finally:
                os.close(fd)
        if root is None:
            root = self._implied(".")
        # We have to be able to enter a layer, whatever it says of itself.
        self._finish(self._root, root, stat.S_IRWXU)

    def _finish(self, fd: int, entry: tarfile.TarInfo, more: int) -> None:
        if self._owners:
            os.fchown(fd, _id(entry.uid), _id(entry.gid))
        os.fchmod(fd, entry.mode & 0o7777 | more)
        os.utime(fd, ns=_times(entry))

    def _own(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        if self._owners:
            ids = (_id(entry.uid), _id(entry.gid))
            os.chown(name, *ids, dir_fd=parent, follow_symlinks=False)

    def _date(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        os.utime(name, ns=_times(entry), dir_fd=parent, follow_symlinks=False)


def machine_of(data: bytes) -> str:
    """Return the architecture of a program, or an empty string for what is none."""
    if len(data) < 20 or data[:4] != b"\x7fELF":
        return ""
    order = "little" if data[5] == 1 else "big"
    number = int.from_bytes(data[18:20], order)  # type: ignore[arg-type]
    return _MACHINES.get(number, f"machine {number}")


def _set_opaque(fd: int) -> None:
    os.setxattr(fd, opaque_attribute(), b"y")


def _lstat(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _id(number: int) -> int:
    # A sandbox has no more ids than that.
    return number if 0 <= number <= _MAX_ID else _NOBODY


def _times(entry: tarfile.TarInfo) -> tuple[int, int]:
    try:
        moment = max(0, min(int(entry.mtime * 10**9), 2**62))
    except (ValueError, OverflowError):  # archives can say "nan" and "inf"
        moment = 0
    return moment, moment
