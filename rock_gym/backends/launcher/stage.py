"""The children that build what a sandbox sees, and the one that becomes bwrap.

A *template* is a mount namespace in which the read-only root of an image lies ready on a tmpfs
over ``/sys``: built once, kept by a descriptor, never seen outside. Each sandbox starts from a
copy of it, which the kernel makes far faster than bwrap could mount it anew, and adds a tmpfs of
its own to write to, whose size is the sandbox's disk limit. Nothing has a name on the host's
disk, and nothing has to be unmounted.
"""

import fcntl
import os
import resource
from typing import NamedTuple

import calls
import inside
import linux
import overlay
from calls import Call, Fd, call

STAGE = "/sys"
ROOT = f"{STAGE}/root"
WRITABLE = f"{STAGE}/rw"

_PLAIN = linux.MS_NOSUID | linux.MS_NODEV
_READ_ONLY = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | _PLAIN
_NODE = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_NOSUID | linux.MS_NOEXEC

_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
_DEVICE_LINKS = (
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
)


class Template:
    """The mount namespace that new sandboxes copy; raises OSError when it cannot be made."""

    def __init__(self, plan: dict) -> None:
        done_read, done_write = os.pipe()
        hold_read, hold_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            inside.keep_only(done_write, hold_read)
            _build_and_hold(plan, done_write, hold_read)
        os.close(done_write)
        os.close(hold_read)
        try:
            text = os.read(done_read, 4096).decode("utf-8", "replace")
            if text != "done":
                raise OSError(text or "the template was not built")
            self.mount_fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(done_read)
            os.close(hold_write)
            os.waitpid(pid, 0)

    def close(self) -> None:
        """Give it up; sandboxes that have started from it have copies."""
        os.close(self.mount_fd)


def _build_and_hold(plan: dict, done: int, hold: int) -> None:
    """Build the template, and live until it has been taken hold of. Never returns."""
    try:
        linux.unshare(linux.CLONE_NEWNS)
        _build(plan)
        os.write(done, b"done")
        os.read(hold, 1)
    except OSError as error:
        os.write(done, str(error).encode())
    finally:
        os._exit(0)


def _build(plan: dict) -> None:
    # Under systemd the root is shared, and a mount made here would show everywhere.
    linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", STAGE, "tmpfs", _PLAIN, "size=4m,mode=0755")
    os.umask(0o022)
    os.mkdir(WRITABLE)
    os.mkdir(ROOT)
    if "layers" in plan:
        overlay.bind_layers(plan["layers"])
        os.mkdir(overlay.DEVICES)
        _build_devices(overlay.DEVICES, plan)
        return
    linux.mount(ROOT, ROOT, "", linux.MS_BIND)
    for path in plan["directories"]:
        os.makedirs(ROOT + path, exist_ok=True)
    for path, text in plan["files"]:
        with open(ROOT + path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
    _add_own(plan, ROOT)
    for source, path in plan["binds"]:
        _bind(source, STAGE + path)
    for text, path in plan["covers"]:
        _cover(text, STAGE + path)
    _build_devices(f"{ROOT}/dev", {})
    linux.mount("", ROOT, "", _READ_ONLY)


def _add_own(plan: dict, root: str) -> None:
    """Add the links and programs of ours that a plan names."""
    for path, target in plan.get("links", ()):
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(target, root + path)
    for path, code in plan.get("programs", ()):
        with open(root + path, "wb") as file:
            file.write(bytes.fromhex(code))
        os.chmod(root + path, 0o755)


def _build_devices(device: str, plan: dict) -> None:
    """Make ``/dev``: what programs cannot do without, and places for pts and shm."""
    linux.mount("tmpfs", device, "tmpfs", _PLAIN, "size=64k,mode=0755")
    for name in _DEVICES:
        with open(f"{device}/{name}", "w"):
            pass
        linux.mount(f"/dev/{name}", f"{device}/{name}", "", linux.MS_BIND)
        linux.mount("", f"{device}/{name}", "", _NODE)
    for name, target in _DEVICE_LINKS:
        os.symlink(target, f"{device}/{name}")
    os.mkdir(f"{device}/pts")
    os.mkdir(f"{device}/shm")
    _add_own(plan, device)
    linux.mount("", device, "", _READ_ONLY)


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w"):
            pass
    linux.mount(source, target, "", linux.MS_BIND | linux.MS_REC)
    # Done here, bwrap does not have to do it again for each sandbox.
    linux.mount("", target, "", _READ_ONLY)


def _cover(text: str, target: str) -> None:
    """Show another text in the place of a file that is bound read-only."""
    source = f"{STAGE}/cover"
    with open(source, "w", encoding="utf-8") as file:
        file.write(text)
    linux.mount(source, target, "", linux.MS_BIND)
    linux.mount("", target, "", _READ_ONLY)
    os.unlink(source)


# The child that becomes bwrap


class Place(NamedTuple):
    """Where a sandbox starts.

    Attributes:
        template: What its image is.
        mounts: The namespace that an earlier run of it has left, or -1.
        doors: What to write to to join its control groups.
        user_namespace: Of its range of ids, or -1.
    """

    template: Template
    mounts: int
    doors: list[str]
    user_namespace: int

    @property
    def namespace(self) -> int:
        """The mount namespace to start from."""
        return self.mounts if self.mounts >= 0 else self.template.mount_fd


def starting(request: dict, place: Place, namespace: Fd) -> tuple[list[Call], list[Call]]:
    """Return the calls that make a sandbox's place, and those that become bwrap.

    Between the two, the root of one that is an image's is still to be made.
    """
    first = [call("write_to", door, "0") for door in place.doors]
    first.append(call("setns", namespace, linux.CLONE_NEWNS))
    if place.mounts < 0:
        first += [call("unshare", linux.CLONE_NEWNS), *_writable(request)]
        if "layers" not in request:
            first += _host_root(request)
    return first, [*_becoming(request["kuid"]), calls.become(request["argv"])]


def run_bwrap(request: dict, place: Place, fds: list[int]) -> None:
    """Become bwrap, by way of an image's root. Never returns; errors stand on standard error.

    Args:
        request: The owner's request.
        place: Where the sandbox starts.
        fds: What bwrap finds at 0, 1, 2, ...; its arguments name those numbers.
    """
    try:
        for number, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in fds]):
            os.dup2(fd, number)
        first, last = starting(request, place, Fd(0))
        calls.run(first, [place.namespace])
        if place.mounts < 0:
            overlay.make_root(request, place.user_namespace)
        linux.reset_signals()
        calls.run(last)
    except OSError as error:
        os.write(2, f"{error}\n".encode())
    finally:
        os._exit(1)


def _writable(request: dict) -> list[Call]:
    # Bounded in files, too: empty ones cost kernel memory that a size does not limit.
    options = f"size={request['size']},nr_inodes={max(1024, request['size'] // 4096)},mode=0755"
    device = overlay.DEVICES if "layers" in request else f"{ROOT}/dev"
    shm = f"size={request['shm_size']},nr_inodes=16384,mode=1777"
    pts = linux.MS_NOSUID | linux.MS_NOEXEC
    return [
        calls.mount("tmpfs", WRITABLE, "tmpfs", _PLAIN, options),
        calls.mount("tmpfs", f"{device}/shm", "tmpfs", _PLAIN, shm),
        calls.mount("devpts", f"{device}/pts", "devpts", pts, "newinstance,ptmxmode=0666,mode=620"),
    ]


def _host_root(request: dict) -> list[Call]:
    """Lay directories of the sandbox's own over those of the read-only root."""
    kuid = request["kuid"]
    steps = [call("umask", 0)]
    for path, mode in request["writable"]:
        source = f"{WRITABLE}/{path.replace('/', '-')}"
        steps.append(calls.mkdir(source, mode))
        if kuid is not None:
            steps.append(calls.chown(source, kuid))
        steps.append(calls.mount(source, ROOT + path, "", linux.MS_BIND))
    steps.append(call("umask", 0o022))
    for place, path in request["late"]:
        parts = path.strip("/").split("/")
        above = ("/".join(parts[: count + 1]) for count in range(len(parts)))
        steps += [calls.mkdir(f"{ROOT}/{each}", 0o755, may_exist=True) for each in above]
        steps.append(calls.mount(STAGE + place, ROOT + path, "", linux.MS_BIND | linux.MS_REC))
    return steps


def _becoming(kuid: int | None) -> list[Call]:
    """Give up being root: a kernel uid of 0 may write sysctls whatever its namespaces.

    bwrap gets the rights that it needs by making a user namespace of its own.
    """
    steps = [calls.limit(resource.RLIMIT_CORE, 0)]
    if kuid is not None:
        steps.append(call("setgroups", 0, None))
        steps += [call(name, kuid, kuid, kuid) for name in ("setresgid", "setresuid")]
    return [*steps, linux.set_capabilities(0), linux.FORBID_NEW_PRIVILEGES]
