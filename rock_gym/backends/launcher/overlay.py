"""Sandboxes of images: a writable root over read-only layers.

The layers lie ready in the template's mount namespace. Each sandbox lays an overlay over them whose
upper directory is on its own tmpfs, so that the size of that is its disk limit and the layers stay
as they are. What root starts has a range of kernel user ids of its own, as which the owners of the
layers' files are shown; what an ordinary user starts has one id, which is root inside.
"""

import os
import stat

import inside
import linux

STAGE = "/sys"
ROOT = f"{STAGE}/root"
WRITABLE = f"{STAGE}/rw"
LAYERS = f"{STAGE}/l"
DEVICES = f"{STAGE}/dev"
UPPER = f"{WRITABLE}/upper"

IDS = 65536

_PLAIN = linux.MS_NOSUID | linux.MS_NODEV
_READ_ONLY = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | _PLAIN
_HOSTS = "127.0.0.1 localhost sandbox\n::1 localhost\n"


def bind_layers(layers: list[str]) -> None:
    """Show the layers on the stage, the uppermost as 0. Called once, for the template."""
    os.mkdir(LAYERS)
    for number, path in enumerate(layers):
        place = f"{LAYERS}/{number}"
        os.mkdir(place)
        linux.mount(path, place, "", linux.MS_BIND)
        linux.mount("", place, "", _READ_ONLY)


def make_user_namespace(base: int) -> int:
    """Make a user namespace for ``base`` and the ids after it, and return a descriptor of it.

    Its owner is ``base``, so that bwrap may enter it as that user. Nobody can make more inside it.
    """
    ready, tell_ready = os.pipe()
    go, tell_go = os.pipe()
    pid = os.fork()
    if pid == 0:
        inside.keep_only(tell_ready, go)
        _become_namespace(base, tell_ready, go)
    os.close(tell_ready)
    os.close(go)
    try:
        if os.read(ready, 1) != b"1":
            raise OSError("a user namespace cannot be made: unshare failed")
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(f"0 {base} {IDS}")
        os.write(tell_go, b"1")
        if os.read(ready, 1) != b"2":
            raise OSError("further user namespaces cannot be forbidden")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.close(tell_go)
        os.waitpid(pid, 0)


def _become_namespace(base: int, ready: int, go: int) -> None:
    """Hold a new user namespace until it has been taken hold of. Never returns."""
    try:
        os.setgroups([])
        os.setresgid(base, base, base)
        os.setresuid(base, base, base)
        linux.unshare(linux.CLONE_NEWUSER)
        os.write(ready, b"1")
        if os.read(go, 1) == b"1":
            with open("/proc/sys/user/max_user_namespaces", "w") as file:
                file.write("0")
            os.write(ready, b"2")
            os.read(go, 1)
    finally:
        os._exit(0)


def make_root(request: dict, user_namespace: int) -> None:
    """Mount the root of one sandbox; its tmpfs and devices are mounted already.

    Args:
        request: The owner's request.
        user_namespace: Of the sandbox's range of ids; -1 for what an ordinary user starts.
    """
    count = request["layers"]
    base = request["kuid"]
    if user_namespace >= 0:
        _map_owners(count, user_namespace)
    os.umask(0)
    os.mkdir(UPPER, stat.S_IMODE(os.stat(f"{LAYERS}/0").st_mode))
    os.mkdir(f"{WRITABLE}/work", 0o700)
    os.mkdir(f"{WRITABLE}/run", 0o700)
    for name in ("upper", "run"):
        _own(f"{WRITABLE}/{name}", base)
    if base is None:
        _check_attributes()
    # A page is all there is room for, so the layers have short names.
    os.chdir(LAYERS)
    lower = ":".join(str(number) for number in range(count))
    options = f"lowerdir={lower},upperdir={UPPER},workdir={WRITABLE}/work,redirect_dir=nofollow"
    options += ",index=off,metacopy=off" + (",userxattr" if base is None else "")
    linux.mount("overlay", ROOT, "overlay", _PLAIN, options)
    if os.statvfs(ROOT).f_flag & os.ST_RDONLY:
        raise OSError("the overlay could only be mounted read-only; see the kernel's log")
    _furnish(request, base)


def _map_owners(count: int, user_namespace: int) -> None:
    for number in range(count):
        place = f"{LAYERS}/{number}"
        fd = linux.open_tree(place)
        try:
            linux.map_owners(fd, user_namespace)
        except OSError as error:
            raise OSError(
                f"{error}; it takes Linux 5.19 and a file system such as ext4, xfs or btrfs, "
                "so let ROCK_GYM_DATA name a directory on one"
            ) from error
        linux.move_mount(fd, place)


def _check_attributes() -> None:
    """Refuse to go on without what overlayfs needs to hide a directory of the image."""
    try:
        os.setxattr(UPPER, "user.rock-gym", b"")
        os.removexattr(UPPER, "user.rock-gym")
    except OSError as error:
        raise OSError(
            f"{error}: images need Linux 6.6 for ordinary users, whose tmpfs has attributes; "
            "start as root, or use image='host'"
        ) from error


def _furnish(request: dict, base: int | None) -> None:
    """Put in place what programs need and an image may lack.

    Done with the image as root directory: no link in it can lead to anything else.
    """
    devices = linux.open_tree(DEVICES, linux.AT_RECURSIVE)
    run = linux.open_tree(f"{WRITABLE}/run")
    outside = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chroot(ROOT)
    os.chdir("/")
    for path, mode in request["writable"]:
        _make_directories(path, mode, base)
    for path in ("/proc", "/dev"):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise OSError(f"the image's {path} is not a directory")
    linux.move_mount(devices, "/dev")
    linux.move_mount(run, request["run_dir"])
    _make_hosts(base)
    os.umask(0o022)
    os.fchdir(outside)
    os.chroot(".")
    os.close(outside)


def _make_directories(path: str, mode: int, base: int | None) -> None:
    done = ""
    for part in path.strip("/").split("/"):
        done = f"{done}/{part}"
        if not os.path.isdir(done):
            os.mkdir(done, mode if done == path else 0o755)
            _own(done, base)


def _make_hosts(base: int | None) -> None:
    """Let ``localhost`` be known. Exported images have an empty file there, or none."""
    path = "/etc/hosts"
    if not os.path.isdir("/etc"):
        return
    if os.path.lexists(path):
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_size:
            return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    os.write(fd, _HOSTS.encode())
    if base is not None:
        os.fchown(fd, base, base)
    os.close(fd)


def _own(path: str, base: int | None) -> None:
    if base is not None:
        os.chown(path, base, base, follow_symlinks=False)
