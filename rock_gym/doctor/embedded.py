"""Embedded sandboxes: whether they start here, what holds in them, and what is in their way."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rock_gym.backends.bubblewrap import find_bwrap
from rock_gym.doctor.checks import Check, install
from rock_gym.doctor.inside import examine_inside
from rock_gym.errors import BackendUnavailable, RockGymError

PART = "embedded"

_PROBE_S = 30.0
# Settings of the kernel that forbid namespaces to users, what they are then, and how to mend them.
_SETTINGS = (
    ("user/max_user_namespaces", "0", "user.max_user_namespaces=65536"),
    ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
# Says which namespaces may be made together with a user namespace.
_UNSHARE = """
import ctypes, errno, json, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(flag):
    pid = os.fork()
    if pid == 0:
        os._exit(ctypes.get_errno() if libc.unshare(0x10000000 | flag) else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
flags = dict(user=0, mnt=0x20000, pid=0x20000000, ipc=0x8000000, uts=0x4000000, net=0x40000000,
    cgroup=0x2000000)
print(json.dumps({name: errno.errorcode.get(attempt(flag), "") for name, flag in flags.items()}))
"""
_DELEGATED = (
    "run it in a group of its own: systemd-run --user --scope -p Delegate=yes python train.py"
)
_ROOT_OR_V2 = "run it as root, or start the machine with systemd.unified_cgroup_hierarchy=1"


def examine_embedded() -> list[Check]:
    """Look at the embedded backend; the item ``"sandbox"`` says whether it can be used."""
    try:
        path, version = find_bwrap()
    except BackendUnavailable as error:
        return [
            Check(PART, "bubblewrap", "missing", error.message, install("bubblewrap")),
            *_what_is_in_the_way(),
            Check(PART, "sandbox", "missing", "not without bubblewrap"),
        ]
    told = f"{path} {'.'.join(map(str, version))}"
    return [Check(PART, "bubblewrap", "ok", told), *_examine_sandbox()]


def _examine_sandbox() -> list[Check]:
    try:
        found = examine_inside(PART, "bubblewrap", _limit_fixes())
    except RockGymError as error:
        # What it says of remedies for all machines is said here of this one.
        reason = error.message.partition(". Remedies")[0]
        return [Check(PART, "sandbox", "missing", reason), *_what_is_in_the_way()]
    return [*found, _examine_images()]


def _limit_fixes() -> dict[str, str]:
    with open("/proc/self/cgroup") as file:
        versions = {line.split(":", 1)[0] for line in file}
    fix = _DELEGATED if versions == {"0"} else _ROOT_OR_V2
    return {"memory": fix, "cpus": fix, "processes": fix}


def _examine_images() -> Check:
    """Start a sandbox of an image, in a process that has a store of its own."""
    with tempfile.TemporaryDirectory(prefix="rock-gym-doctor-") as store:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "rock_gym.doctor.image_probe"],
                env={**os.environ, "ROCK_GYM_DATA": store, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                text=True,
                timeout=_PROBE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Check(PART, "images", "missing", f"no answer within {_PROBE_S:.0f} s")
    if done.returncode == 0:
        return Check(PART, "images", "ok", "writable roots over shared images (overlay)")
    lines = done.stderr.strip().splitlines() or ["no reason given"]
    return Check(
        PART,
        "images",
        "missing",
        f"only image='host' works here: {lines[-1]}",
        "run it on Linux 5.11 or newer, or use backend='docker' for images",
    )


def _what_is_in_the_way() -> list[Check]:
    """Say which namespaces this process may make, and what forbids the others."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _UNSHARE],
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [Check(PART, "namespaces", "missing", f"cannot be tried: {error}")]
    refused = {name: why for name, why in json.loads(done.stdout).items() if why}
    told = ", ".join(f"{name} ({why})" for name, why in refused.items())
    reasons = _reasons()
    if reasons:
        what = f"refused: {told}" if refused else "they can be made, and hold no rights"
        return [
            Check(PART, "namespaces", "missing", f"{what}; {reason}", fix)
            for reason, fix in reasons
        ]
    if refused:
        return [Check(PART, "namespaces", "missing", f"refused: {told}")]
    return [Check(PART, "namespaces", "ok", "may be made")]


def _reasons() -> list[tuple[str, str]]:
    """Return what forbids namespaces here, each with its remedy."""
    found = []
    for name, forbids, setting in _SETTINGS:
        with contextlib.suppress(OSError):
            value = Path("/proc/sys", name).read_text().strip()
            if value == forbids:
                key = name.replace("/", ".")
                found.append((f"{key} is {value}", f"sudo sysctl -w {setting}"))
    status = Path("/proc/self/status").read_text()
    if "\nSeccomp:\t2\n" in status:
        found.append(
            (
                "this process is under a filter of system calls, as in a container",
                "start the container with: --security-opt seccomp=unconfined "
                "--security-opt apparmor=unconfined --security-opt systempaths=unconfined",
            )
        )
    return found
