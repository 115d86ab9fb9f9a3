"""Sandboxes of images: a directory or an image of the store, fully writable, as its root user.

Nothing is added to the image but directories that programs cannot do without. The library's own
files lie in ``/dev``, which is the sandbox's own, and in its run directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Sequence

from rock_gym.backends.base import CommittedImage
from rock_gym.backends.handles import SCRIPT_FD
from rock_gym.backends.host import RUN, SECCOMP_FD, STAGE, WORK, is_closed
from rock_gym.backends.init import init_program
from rock_gym.backends.plan import Identity, Plan
from rock_gym.errors import ImageError, ImageNotFound, SpecError
from rock_gym.images import Image, Store
from rock_gym.images.store import MAX_LAYERS, Config

# Another descriptor that the launcher puts in place for bwrap.
_USER_NAMESPACE_FD = "4"

_INIT = "/rock-gym/init"
_SCRIPTS = "/rock-gym/scripts"
_HOME = "/root"

# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID and SETUID: what installing packages takes. They
# reach no further than the sandbox's own user ids.
_CAPABILITIES = 0xFB

_DIRECTORIES = (
    ("/proc", 0o555),
    ("/dev", 0o755),
    ("/etc", 0o755),
    (RUN, 0o700),
    ("/tmp", 0o1777),
    (_HOME, 0o700),
)
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash")
_ENVIRON = {
    "HOME": _HOME,
    "LANG": "C.UTF-8",
    "LOGNAME": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "TERM": "dumb",
    "USER": "root",
}


def is_directory_name(image: str) -> bool:
    """Whether an image is meant as a directory rather than as a name."""
    return image.startswith(("/", "./", "../", "~"))


def image_plan(image: str, store: Store) -> Plan:
    """Describe an image.

    Raises:
        SpecError: If it is a directory that must not be shown, or not a name.
        ImageNotFound: If there is none.
    """
    if is_directory_name(image):
        path = os.path.realpath(os.path.expanduser(image))
        if not os.path.isdir(path):
            raise ImageNotFound(f"no root directory {image!r}; unpack one there, or {_WAYS}")
        if is_closed(path):
            raise SpecError(f"{image!r} is the system's own and no image; use image='host'")
        return _plan((path,), Config(), None)
    try:
        found = store.get(image)
    except ImageNotFound as error:
        raise ImageNotFound(f"no embedded image {image!r}; {_WAYS}") from error
    try:
        return _plan(tuple(map(store.layer_path, found.layers)), found.config, found)
    except FileNotFoundError as error:
        raise ImageNotFound(f"image {image!r} was removed or replaced just now") from error


def commit_image(name: str, plan: Plan, copy: Callable[[int], int]) -> CommittedImage:
    """Make an image of one that a sandbox runs and of what it has written.

    Args:
        name: What the new image is called.
        plan: The sandbox's.
        copy: Copies what it has written to a directory, and returns the size of the files.

    Raises:
        SpecError: If the name is none, or the sandbox's image is not one of the store.
        ImageError: If it could not be made.
    """
    if plan.image is None:
        raise SpecError(
            "only a sandbox of an imported image can be committed: "
            + (_TAR if plan.layers else _HOST)
        )
    if len(plan.layers) >= MAX_LAYERS:
        raise ImageError(
            f"the image has {MAX_LAYERS} layers already, and more do not work; make it one by: "
            "docker export, or tar inside a sandbox, and rock-gym image import"
        )
    store = Store()
    try:
        with store.draft(name) as draft:
            draft.begin_with(plan.image)
            path = draft.make()
            target = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                size = copy(target)
            finally:
                os.close(target)
            # Nothing else will ever have these very files.
            draft.add(secrets.token_hex(16), path, size)
            return CommittedImage(name, draft.publish(plan.image.config).size_bytes)
    except OSError as error:
        raise ImageError(f"the sandbox cannot be committed: {error}") from error


_HOST = (
    "'host' is this machine itself. Import a root directory as an image, by: rock-gym image import "
    "ARCHIVE NAME, and start from that; or download the files you want to keep"
)
_TAR = (
    "this one runs a directory. Import that first, by: tar -C DIRECTORY -c . | rock-gym image "
    "import - NAME, and start from the name"
)
_WAYS = (
    "import one with: rock-gym image import ARCHIVE NAME (a tar of a root directory, an OCI "
    "archive, or of docker save); or pull it with: rock-gym image pull NAME; or use image='host', "
    "a root directory's path, or backend='docker' with an image of the engine"
)


def _plan(layers: tuple[str, ...], config: Config, image: Image | None) -> Plan:
    by_root = os.geteuid() == 0
    uppermost_first = layers[::-1]
    shell = _best_shell(uppermost_first)
    workdir = os.path.normpath(config.workdir or WORK)
    template = {
        "layers": uppermost_first,
        "links": [(f"{_SCRIPTS}/{name}", f"/proc/self/fd/{SCRIPT_FD}") for name in ("bash", "sh")],
        "programs": [(_INIT, init_program().hex())],
    }
    # An id is used again some time after its layer was removed.
    marks = [_mark(path) for path in layers]
    return Plan(
        key=hashlib.sha256(json.dumps([template, marks]).encode()).hexdigest(),
        template=template,
        argv=(
            *(_BY_ROOT if by_root else _BY_USER),
            *_ISOLATION,
            *("--seccomp", SECCOMP_FD, "--", f"/dev{_INIT}"),
        ),
        writable=(*_DIRECTORIES, (workdir, 0o755)),
        late=(),
        environ={**_ENVIRON, "SHELL": shell, **config.env},
        shell=shell,
        workdir=workdir,
        run_dir=RUN,
        script_dir=f"/dev{_SCRIPTS}",
        identity=Identity(0, 0, _CAPABILITIES, "plain" if by_root else "one-id"),
        layers=layers,
        image=image,
    )


_BY_ROOT = (
    *("--userns", _USER_NAMESPACE_FD),
    *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup"),
)
_BY_USER = ("--unshare-all", "--unshare-user", "--disable-userns")
_ISOLATION = (
    *("--uid", "0", "--gid", "0"),
    *("--hostname", "sandbox"),
    *("--cap-drop", "ALL"),
    "--new-session",
    "--as-pid-1",
    "--clearenv",
    *("--dev-bind", f"{STAGE}/root", "/"),
    *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"),
    *("--chdir", "/"),
)


def _mark(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _best_shell(layers: Sequence[str]) -> str:
    """Return bash where the uppermost layer that says anything of it has it."""
    for path in _SHELLS:
        for layer in layers:
            try:
                mode = os.lstat(layer + path).st_mode
            except OSError:
                continue
            if not stat.S_ISCHR(mode):  # such a one stands for a file that was removed
                return path
            break
    return "/bin/sh"
