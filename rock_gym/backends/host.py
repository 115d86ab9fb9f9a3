"""The ``host`` image of embedded sandboxes: a read-only view of the system and the interpreter.

It is made of a short list of system directories and of the prefixes of the running interpreter,
never of ``/``, ``/run``, ``/home`` or ``/root``: a read-only bind of those would still hand out
their sockets and secrets. Home, work directory and /tmp are writable and share one size limit.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import site
import sys
import sysconfig
from pathlib import Path
from typing import Any

from rock_gym.backends.handles import SCRIPT_FD
from rock_gym.backends.init import init_program
from rock_gym.backends.plan import Identity, Plan
from rock_gym.errors import BackendUnavailable, SpecError

STAGE = "/sys"
HOME = "/home/user"
WORK = "/work"
RUN = "/run/rock-gym"
UID = GID = 1000

# A descriptor that the launcher puts in place for bwrap.
SECCOMP_FD = "3"

_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "pki",
    "protocols",
    "services",
    "ssl",
    "terminfo",
)
_FILES = {
    "passwd": (
        f"root:x:0:0:root:/root:/bin/sh\nuser:x:{UID}:{GID}:user:{HOME}:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "group": f"root:x:0:\nuser:x:{GID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "resolv.conf": "",
}
_CLOSED = ("/", "/home", "/root", "/run", "/var", "/etc", "/proc", "/sys", "/dev", "/boot")

_INIT = "/.rock-gym-init"
_PROGRAMS = "/opt/rock-gym/bin"
SCRIPTS = "/opt/rock-gym/scripts"


@functools.lru_cache(maxsize=32)
def host_plan(read_only: tuple[str, ...] = ()) -> Plan:
    """Describe the ``host`` image of this machine and this interpreter.

    Args:
        read_only: More host directories to show, at their own paths.

    Raises:
        SpecError: If one of ``read_only`` is not a directory that may be shown.
        BackendUnavailable: If the interpreter's prefix is a directory that must not be shown.
    """
    shown = _interpreter_directories()
    for path in read_only:
        if not os.path.isabs(path) or not os.path.isdir(path) or is_closed(path):
            raise SpecError(f"read_only must name directories below closed ones, not {path!r}")
        shown += [path, os.path.realpath(path)]
    places = {path: _place(path, number) for number, path in enumerate(_outermost(shown))}
    template = _template(places)
    return Plan(
        key=hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest(),
        template=template,
        argv=(*_ISOLATION, *_MOUNTS, "--seccomp", SECCOMP_FD, "--", _INIT),
        writable=_WRITABLE,
        late=tuple((place, path) for path, place in places.items() if _is_late(path)),
        environ=_environ(),
        shell=_best_shell(),
        workdir=WORK,
        run_dir=RUN,
        script_dir=SCRIPTS,
        identity=Identity(UID, GID, 0, "plain"),
    )


# What a sandbox may write to, with the modes.
_WRITABLE = (("/tmp", 0o1777), (HOME, 0o755), (WORK, 0o755), (RUN, 0o700))


def _is_late(path: str) -> bool:
    """Whether a directory is shown below a writable one, so that it must be mounted after that."""
    return any(path.startswith(f"{writable}/") for writable, _ in _WRITABLE)


def _place(path: str, number: int) -> str:
    """Return where on the stage a shown directory is bound."""
    return f"/shown{number}" if _is_late(path) else f"/root{path}"


_ISOLATION = (
    "--unshare-all",
    "--unshare-user",
    "--disable-userns",
    *("--uid", str(UID), "--gid", str(GID)),
    *("--hostname", "sandbox"),
    *("--cap-drop", "ALL"),
    "--new-session",
    "--as-pid-1",
    "--clearenv",
)
# All other mounts are on the stage already, where they cost far less. ``--dev-bind`` leaves their
# flags as they are; all but the six device nodes have nodev.
_MOUNTS = (
    *("--dev-bind", f"{STAGE}/root", "/"),
    *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"),
    *("--chdir", WORK),
)


def _template(places: dict[str, str]) -> dict[str, Any]:
    binds = [("/usr", "/root/usr")]
    # The seed's users run `python`, which a plain Debian does not have.
    links = [(f"{_PROGRAMS}/python", sys.executable)]
    links += [(f"{SCRIPTS}/{shell}", f"/proc/self/fd/{SCRIPT_FD}") for shell in ("bash", "sh")]
    for path in _SYSTEM:
        if os.path.islink(path):
            links.append((path, os.readlink(path)))
        elif os.path.isdir(path):
            binds.append((path, f"/root{path}"))
    files = [(f"/etc/{name}", text) for name, text in _FILES.items()]
    for name in _ETC:
        path = os.path.realpath(f"/etc/{name}")
        if os.path.isdir(path):
            binds.append((path, f"/root/etc/{name}"))
        elif os.path.isfile(path):
            # A copy: each mount costs every start, and these are small.
            text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
            files.append((f"/etc/{name}", text))
    binds += places.items()
    template: dict[str, Any] = {
        "directories": [
            "/proc",
            "/dev",
            "/etc",
            "/root",
            "/var/tmp",
            _PROGRAMS,
            SCRIPTS,
            *(p for p, _ in _WRITABLE),
        ],
        "links": links,
        "files": files,
        "programs": [(_INIT, init_program().hex())],
        "binds": binds,
        "covers": [],
    }
    configuration = _venv_configuration()
    if configuration:
        template["covers"].append((configuration, _inside(places, f"{sys.prefix}/pyvenv.cfg")))
    return template


def _inside(places: dict[str, str], path: str) -> str:
    """Return where on the stage a file of a shown directory is found."""
    for shown, place in places.items():
        if path.startswith(f"{shown}/"):
            return place + path[len(shown) :]
    return f"/root{path}"


def _interpreter_directories() -> list[str]:
    """Return the prefixes and site-packages of the running interpreter that /usr lacks."""
    paths = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    paths += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    paths += site.getsitepackages()
    shown: list[str] = []
    for path in paths:
        for name in (os.path.abspath(path), os.path.realpath(path)):
            if name == "/usr" or name.startswith("/usr/") or not os.path.isdir(name):
                continue
            if is_closed(name):
                raise BackendUnavailable(
                    f"the interpreter lies in {name}, which embedded sandboxes must not show; "
                    "use a virtual environment in a directory of its own"
                )
            shown.append(name)
    return shown


def is_closed(path: str) -> bool:
    """Whether showing a directory would show others' data: homes, sockets, the system's."""
    real = os.path.realpath(path)
    return real in _CLOSED or real == os.path.realpath(Path.home())


def _outermost(paths: list[str]) -> list[str]:
    """Return each directory once, without those that lie in another one."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(path.startswith(f"{outer}/") for outer in kept):
            kept.append(path)
    return kept


def _venv_configuration() -> str | None:
    """Return a pyvenv.cfg with which ``pip install`` goes to the user site, not to the venv."""
    if sys.prefix == sys.base_prefix:
        return None
    try:
        text = Path(sys.prefix, "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return None
    lines = [line for line in text.splitlines() if "include-system-site-packages" not in line]
    return "\n".join([*lines, "include-system-site-packages = true", ""])


def _environ() -> dict[str, str]:
    programs = [f"{HOME}/.local/bin"]
    for prefix in (sys.prefix, sys.base_prefix):
        directory = f"{prefix}/bin"
        if directory not in programs and not directory.startswith("/usr/bin"):
            programs.append(directory)
    programs += ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"]
    programs.append(_PROGRAMS)
    return {
        "HOME": HOME,
        "LANG": "C.UTF-8",
        "LOGNAME": "user",
        "PATH": ":".join(dict.fromkeys(programs)),
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "SHELL": _best_shell(),
        "TERM": "dumb",
        "USER": "user",
    }


def _best_shell() -> str:
    return "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
