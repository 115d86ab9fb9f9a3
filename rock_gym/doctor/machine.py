"""What sandboxes need of the machine, whoever starts them."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import sys

from rock_gym.doctor.checks import Check
from rock_gym.memory import available_bytes, total_bytes

_GIB = 1 << 30
# A sandbox with an environment in it takes some six descriptors.
_FEW_DESCRIPTORS = 4096
_LITTLE_MEMORY_BYTES = 2 * _GIB


def examine_machine() -> list[Check]:
    """Look at the system, its memory and our own limits."""
    return [_system(), _memory(), _descriptors()]


def _system() -> Check:
    told = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    if sys.platform != "linux":
        return Check(
            "machine",
            "system",
            "missing",
            f"{told}: sandboxes need Linux",
            "run this on Linux, or in a virtual machine with it",
        )
    return Check("machine", "system", "ok", told)


def _memory() -> Check:
    free = available_bytes()
    told = f"{free / _GIB:.1f} of {total_bytes() / _GIB:.1f} GiB free"
    if free < _LITTLE_MEMORY_BYTES:
        return Check(
            "machine",
            "memory",
            "degraded",
            f"{told}: pools start fewer sandboxes at once",
            "ps -eo rss,pid,args --sort=-rss | head",
        )
    return Check("machine", "memory", "ok", told)


def _descriptors() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FEW_DESCRIPTORS:
        enough = hard == resource.RLIM_INFINITY or hard >= _FEW_DESCRIPTORS
        command = f"ulimit -n {65536 if hard == resource.RLIM_INFINITY else hard}"
        return Check(
            "machine",
            "open files",
            "degraded",
            f"{soft} at once: enough for {soft // 8} sandboxes or so",
            command if enough else "sudo prlimit --nofile=65536:65536 --pid $$",
        )
    return Check("machine", "open files", "ok", f"{soft} at once")


def examine_ray() -> list[Check]:
    """Look at Ray, where it is installed."""
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Check("ray", "package", "ok", f"ray {version}")]
