"""The child that joins a sandbox: it enters its namespaces, gives up all rights, and execs.

The launcher forks it into the sandbox's process namespace as its own child, which makes the exit
code the kernel's own word. File requests are served by the same kind of process, without an exec:
it opens the file as the sandbox's user under the sandbox's rules, so that no link inside can lead
out, and passes the descriptor to the owner.
"""

import contextlib
import errno
import fcntl
import json
import os
import resource
import socket
import stat
import struct
import termios

import cgroups
import linux
import trees
from packets import load, pass_file, receive

FIRST_FREE_FD = 64
MAX_FD = 0x7FFFFFFF
# Which the module has from Python 3.13 on.
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441


def join(
    identity: dict,
    pidfd: int,
    sock: socket.socket,
    report: int,
    seccomp: bytes,
    doors: list[str],
) -> None:
    """Join, wait for a request and serve it. Never returns; what goes wrong is reported.

    Args:
        identity: Who to be inside: user, group, capabilities and limits.
        pidfd: The sandbox's init.
        sock: Where the request comes from.
        report: Where to tell what happens, one JSON object a line.
        seccomp: The filter.
        doors: What to write to to join the sandbox's control groups.
    """
    try:
        cgroups.join(doors)
        # First of all: a copy of another sandbox's socket would keep its owner waiting for its end.
        keep_only(pidfd, sock.fileno(), report)
        linux.forbid_inspection()
        if os.geteuid() == 0:
            os.setgroups([])
        linux.setns(pidfd, linux.ALL_BUT_PID)
        _confine(identity, seccomp)
        data, fds = receive(sock)
        if not data:
            os._exit(0)  # the sandbox ends
        sock.close()
        request = load(data, fds)
        _report(report, {"taken": True})
        if request["op"] == "open":
            _exec(request, fds[1:])
        elif request["op"] == "terminal":
            _exec(request, [_open_terminal(request, socket.socket(fileno=fds[0]))])
        else:
            _serve_file(request, fds[0], report)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "EIO")
        _report(report, {"error": name, "text": error.strerror, "path": error.filename})
    except Exception as error:  # ours, then: without this it would pass for a lost sandbox
        _report(report, {"error": "EIO", "text": repr(error)})
    finally:
        os._exit(1)


def keep_only(*kept: int) -> None:
    """Close all descriptors but the standard ones and those given."""
    start = 3
    for fd in sorted(fd for fd in kept if fd >= start):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, MAX_FD)


def _report(fd: int, message: dict) -> None:
    os.write(fd, json.dumps(message).encode() + b"\n")


def _confine(identity: dict, seccomp: bytes) -> None:
    """Be nobody special in there, for ever."""
    os.setsid()
    # What the program's descendants leave behind comes back to it, so that they can be found.
    linux.adopt_orphans()
    for name, limit in identity["rlimits"]:
        resource.setrlimit(getattr(resource, name), (limit, limit))
    capabilities = identity["capabilities"]
    linux.drop_bounding_set(keep=capabilities)
    gid, uid = identity["gid"], identity["uid"]
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    linux.set_capabilities(capabilities)
    linux.forbid_new_privileges()
    linux.forbid_inspection()
    linux.install_seccomp(seccomp)
    os.umask(0o022)


def _exec(request: dict, fds: list[int]) -> None:
    """Become the program."""
    targets = request["targets"]
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE_FD) for fd in fds]
    for fd, target in zip(high, targets, strict=True):
        for number in target:
            os.dup2(fd, number)
    os.chdir(request["cwd"])
    if request["start"]:
        os.chdir(request["start"])
    linux.reset_signals()
    environment = request["env"]
    argv = request["argv"]
    os.execve(_find(argv[0], environment.get("PATH", "/usr/bin:/bin")), argv, environment)


def _open_terminal(request: dict, sock: socket.socket) -> int:
    """Make a pseudo-terminal of the sandbox's own, and be led by it; the owner gets its master."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    master = os.open("/dev/ptmx", flags)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *request["size"], 0, 0))
    slave = fcntl.ioctl(master, TIOCGPTPEER, flags)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    pass_file(sock, {"terminal": True}, master)
    return slave


def _find(program: str, path: str) -> str:
    if "/" in program:
        return program
    for directory in path.split(":"):
        candidate = f"{directory}/{program}"
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)


# Files


def _serve_file(request: dict, fd: int, report: int) -> None:
    """Open a file for the owner; it does the reading or writing through the descriptor."""
    sock = socket.socket(fileno=fd)
    os.chdir(request["cwd"])
    if request["op"] == "read":
        file = _open_regular(request["path"])
        pass_file(sock, {"file": True}, file)
    elif request["op"] == "write":
        _write(request, sock)
    elif request["op"] == "read_tree":
        _read_tree(request["path"], sock)
    else:
        _write_tree(request["path"], sock)
    os.close(report)
    os._exit(0)


def _open_regular(path: str) -> int:
    # Opening a FIFO or a device could block or do something; O_NONBLOCK and the check prevent it.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    kind = os.fstat(fd).st_mode
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def _write(request: dict, sock: socket.socket) -> None:
    """Make a new file beside the target, let the owner fill it, and rename it over the target."""
    target = os.path.realpath(request["path"])
    directory = os.path.dirname(target)
    try:
        os.makedirs(directory, exist_ok=True)
    except FileExistsError as error:
        code = errno.ENOTDIR
        raise NotADirectoryError(code, os.strerror(code), request["path"]) from error
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), request["path"])
    temporary = f"{directory}/.rock-gym-{os.urandom(8).hex()}"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, _mode_for(request["mode"], target))
        pass_file(sock, {"file": True}, fd)
        if sock.recv(64) == b"commit":
            os.rename(temporary, target)
            sock.send(b'{"done": true}')
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _mode_for(mode: int | None, target: str) -> int:
    if mode is not None:
        return mode
    try:
        return stat.S_IMODE(os.stat(target).st_mode)
    except FileNotFoundError:
        return 0o644


# Trees


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
