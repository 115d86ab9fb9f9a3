"""Who a process is that joins a sandbox, and what such a process does that copies trees.

The forker forks it into the sandbox's process namespace as the launcher's own child, which makes
the exit code the kernel's own word. Single files are opened by the same kind of process, as the
sandbox's user under the sandbox's rules, so that no link inside can lead out, and their descriptors
are passed to the owner. Trees are copied by a fork of the launcher that joins all but the process
namespace: nobody inside sees it.
"""

import errno
import json
import os
import resource
import socket

import calls
import linux
import trees
from calls import Call, call
from packets import load, pass_file, receive

MAX_FD = 0x7FFFFFFF


def joining(identity: dict, seccomp: bytes, doors: list[str]) -> list[Call]:
    """Return the calls that join a sandbox and give up all rights, for ever.

    Their first descriptor is the sandbox's init.

    Args:
        identity: Who to be inside: user, group, capabilities and limits.
        seccomp: The filter.
        doors: What to write to to join the sandbox's control groups.
    """
    capabilities, gid, uid = identity["capabilities"], identity["gid"], identity["uid"]
    limits = [(getattr(resource, name), value) for name, value in identity["rlimits"]]
    return [
        # Before all else: what it costs to join is the sandbox's.
        *(call("write_to", door, "0") for door in doors),
        linux.FORBID_INSPECTION,
        *([call("setgroups", 0, None)] if os.geteuid() == 0 else []),
        call("setns", calls.Fd(0), linux.ALL_BUT_PID),
        call("setsid"),
        # What the program's descendants leave behind comes back to it, so that they can be found.
        linux.ADOPT_ORPHANS,
        *(calls.limit(number, value) for number, value in limits),
        *linux.drop_bounding_set(keep=capabilities),
        call("setresgid", gid, gid, gid),
        call("setresuid", uid, uid, uid),
        linux.set_capabilities(capabilities),
        linux.FORBID_NEW_PRIVILEGES,
        linux.FORBID_INSPECTION,
        call("install_seccomp", seccomp, len(seccomp)),
        call("umask", 0o022),
    ]


def copy_tree(steps: list[Call], pidfd: int, data: bytes, fds: list[int], report: int) -> None:
    """Join, and read or write a tree. Never returns; what goes wrong is reported.

    Args:
        steps: How to join.
        pidfd: The sandbox's init.
        data: The request.
        fds: What came along.
        report: Where to tell what happens.
    """
    try:
        # First of all: a copy of another sandbox's socket would keep its owner waiting for its end.
        keep_only(pidfd, *fds, report)
        calls.run(steps, [pidfd])
        os.close(pidfd)
        request = load(data, fds)
        _report(report, calls.TAKEN)
        os.chdir(request["cwd"])
        sock = socket.socket(fileno=fds[0])
        if request["op"] == "read_tree":
            _read_tree(request["path"], sock)
        else:
            _write_tree(request["path"], sock)
        os.close(report)
        os._exit(0)
    except OSError as error:
        _report(report, calls.FAILED, error.errno or errno.EIO, error.strerror, error.filename)
    except Exception as error:  # ours, then: without this it would pass for a lost sandbox
        _report(report, calls.FAILED, errno.EIO, repr(error))
    finally:
        os._exit(1)


def keep_only(*kept: int) -> None:
    """Close all descriptors but the standard ones and those given."""
    start = 3
    for fd in sorted(fd for fd in kept if fd >= start):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, MAX_FD)


def _report(
    fd: int, kind: int, error: int = 0, text: str | None = "", path: str | None = None
) -> None:
    data = os.fsencode(text or "")
    detail = 0
    if path is not None:
        detail, data = calls.WITH_PATH, data + b"\0" + os.fsencode(path)
    os.write(fd, calls.REPORT.pack(kind, error, detail, len(data)) + data)


def _read_tree(path: str, sock: socket.socket) -> None:
    """Pass the entries of a tree to the owner, files with their descriptors."""
    root = trees.open_root(path)
    pass_file(sock, {"total": trees.total_bytes(root)}, -1)
    for found, fd in trees.walk(root):
        pass_file(sock, {"entry": found}, fd)
        if fd >= 0:
            os.close(fd)
    pass_file(sock, {"done": True}, -1)


def _write_tree(path: str, sock: socket.socket) -> None:
    """Build the tree that the owner describes; it writes files through their descriptors."""
    builder = trees.Builder(path)
    pass_file(sock, {"ready": True}, -1)
    while True:
        data, _ = receive(sock)
        if not data:
            return
        message = json.loads(data)
        if message == "finish":
            builder.finish()
            pass_file(sock, {"done": True}, -1)
            return
        _build(builder, trees.Found(*message), sock)


def _build(builder: trees.Builder, found: trees.Found, sock: socket.socket) -> None:
    if found.kind == "directory":
        builder.directory(found.path, found.mode, found.mtime_ns)
    elif found.kind == "link":
        builder.link(found.path, found.target, found.mtime_ns)
    else:
        file = builder.file(found.path, found.mode, found.mtime_ns)
        try:
            pass_file(sock, {"file": True}, file.fd)
            if sock.recv(64) == b"commit":
                file.commit()
                pass_file(sock, {"done": True}, -1)
        finally:
            file.abort()
