"""The system calls that the launcher needs and Python's ``os`` does not have, through ctypes.

Only what is called from a freshly forked, single-threaded child: nothing here takes locks.
"""

import ctypes
import os
import signal
import struct

from calls import Call, call

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
ALL_BUT_PID = (
    CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
)

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

OPEN_TREE_CLONE = 1
AT_RECURSIVE = 0x8000

# The same on every architecture: these calls came after the tables were made one.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_IDMAP = 0x00100000

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522

with open("/proc/sys/kernel/cap_last_cap") as _file:
    _LAST_CAPABILITY = int(_file.read())

_libc = ctypes.CDLL(None, use_errno=True)


# Made once: a ctypes array type costs more to make than the call that it is for.
_MountAttributes = ctypes.c_uint64 * 4


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Move this process into the namespaces that a pidfd or a namespace file names."""
    _check(_libc.setns(fd, flags), "setns")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount; an empty string stands for a null pointer."""
    arguments = [text.encode("utf-8", "surrogateescape") or None for text in (source, kind, data)]
    path = target.encode("utf-8", "surrogateescape")
    result = _libc.mount(arguments[0], path, arguments[1], ctypes.c_ulong(flags), arguments[2])
    _check(result, f"mount {target}")


def open_tree(path: str, flags: int = 0) -> int:
    """Copy the mount at a path, and return a descriptor of the copy, which has no place yet."""
    number = ctypes.c_long(_SYS_OPEN_TREE)
    flags |= OPEN_TREE_CLONE | os.O_CLOEXEC
    fd: int = _libc.syscall(number, _AT_FDCWD, path.encode(), ctypes.c_uint(flags))
    if fd < 0:
        _check(-1, f"open_tree {path}")
    return fd


def move_mount(fd: int, path: str) -> None:
    """Give a mount that ``open_tree`` has returned a place, and close its descriptor."""
    number = ctypes.c_long(_SYS_MOVE_MOUNT)
    target = path.encode()
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    _check(_libc.syscall(number, fd, b"", _AT_FDCWD, target, flags), f"move_mount {path}")
    os.close(fd)


def map_owners(fd: int, user_namespace: int) -> None:
    """Show the files of a mount that has no place yet as a user namespace maps their owners."""
    attributes = _MountAttributes(_MOUNT_ATTR_IDMAP, 0, 0, user_namespace)
    number = ctypes.c_long(_SYS_MOUNT_SETATTR)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    result = _libc.syscall(number, fd, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
    _check(result, "mount_setattr: mapping the owners of an image's files")


# Become the parent of whatever the descendants leave behind. Survives exec.
ADOPT_ORPHANS = call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

# Keep others of the same user from reading this process's memory and descriptors.
FORBID_INSPECTION = call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)

# Make set-user-id programs and file capabilities powerless from here on.
FORBID_NEW_PRIVILEGES = call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_bounding_set(keep: int = 0) -> list[Call]:
    """Make sure that no exec gives back a capability that is not in the mask ``keep``.

    Needs CAP_SETPCAP, so it comes before the change of user.
    """
    return [
        call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
        for number in range(_LAST_CAPABILITY + 1)
        if not keep >> number & 1
    ]


def set_capabilities(mask: int, inheritable: int = 0) -> Call:
    """Reduce the effective and permitted sets to ``mask``, and set the inheritable one.

    What is not in both is not in the ambient set either, and so does not outlast an exec.
    """
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = (mask, mask, inheritable)
    words = [*(each & 0xFFFFFFFF for each in sets), *(each >> 32 for each in sets)]
    return call("capset", header, struct.pack("=6I", *words))


def keep_capabilities() -> list[Call]:
    """Let all capabilities outlast an exec, as those of root do."""
    numbers = range(_LAST_CAPABILITY + 1)
    everything = (1 << len(numbers)) - 1
    return [
        set_capabilities(everything, everything),
        *(call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, each, 0, 0) for each in numbers),
    ]


# What Python ignores itself, and what the owner was told to ignore, by nohup or a CI runner.
_IGNORED = {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD} | {
    number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN
}


def reset_signals() -> None:
    """Undo what is ignored or blocked: a program would inherit it."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
