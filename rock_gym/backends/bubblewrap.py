"""The embedded backend: sandboxes by bubblewrap, without a daemon, a server or root.

A sandbox starts in milliseconds and nothing of it outlives its owner. This module is the owner's
side; what happens on the other side of the socket is in ``launcher/``.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import re
import resource
import shutil
import subprocess
import threading
import weakref
from typing import Any

from rock_gym.backends import host, imaged
from rock_gym.backends.base import Capabilities
from rock_gym.backends.container import DEFAULT_PIDS, BubblewrapContainer, await_start
from rock_gym.backends.launch import Launcher
from rock_gym.backends.plan import Plan
from rock_gym.errors import (
    BackendUnavailable,
    ImageNotFound,
    SpecError,
)
from rock_gym.images import Store
from rock_gym.images.uses import Uses
from rock_gym.spec import SandboxSpec

_log = logging.getLogger("rock_gym")

_MINIMUM_VERSION = (0, 8, 0)
_DEFAULT_DISK_BYTES = 1 << 30
_SHM_BYTES = 64 << 20
_NOFILE = 4096
_MAX_TRIES = 10

# What a sandbox consists of beside what its user starts: bwrap, its first process, and one that
# waits to become the next command.
_OWN_PIDS = 3

# Kernel user ids of sandboxes that root starts: a stretch that no distribution, user database
# or container manager hands out. Drawn at random, as owners do not know of each other.
_KUIDS = range(0x7000_0000, 0x7FFF_0000)

# The beginnings of ranges of 65536 ids for sandboxes of images, above what anybody else uses.
_KUID_RANGES = range(0x8000_0000, 0xFFFE_0000, 0x1_0000)


class BubblewrapBackend:
    """Starts sandboxes with bwrap. See ``Backend``."""

    name = "bubblewrap"

    def __init__(self) -> None:
        self._capabilities: Capabilities | None = None
        self._lock = threading.Lock()
        self._launcher: Launcher | None = None
        self._uses = Uses()
        self._containers: weakref.WeakSet[BubblewrapContainer] = weakref.WeakSet()

    @property
    def capabilities(self) -> Capabilities:
        """What it can do here; see ``Backend.capabilities``.

        Raises:
            BackendUnavailable: If the launcher does not start, or can start nothing here.
        """
        if self._capabilities is None:
            holds = self._running_launcher().controllers()
            self._capabilities = Capabilities(
                sockets=True,
                control=True,
                memory="cgroup" if "memory" in holds else "rlimit",
                cpu="cgroup" if "cpu" in holds else "none",
                pids="cgroup" if "pids" in holds else "rlimit",
                disk="tmpfs",
            )
        return self._capabilities

    def check(self, spec: SandboxSpec) -> None:
        """Refuse what can never be started here; see ``Backend.check``."""
        find_bwrap()
        _ = self.capabilities  # there are none where namespaces are refused
        if spec.network != "none":
            raise SpecError(
                f"embedded sandboxes have no network, so network={spec.network!r} cannot be had; "
                "use network='none', or backend='docker'"
            )
        if (only := spec.only_docker()) is not None:
            raise SpecError(
                f"embedded sandboxes cannot do what {only.removesuffix('_bytes')}= asks for; "
                "leave it out, or use backend='docker'"
            )
        _tmpfs_sizes(spec)
        if spec.image not in (None, "host"):
            with contextlib.suppress(FileNotFoundError):  # it is being replaced
                self._plan(spec)

    def start(
        self, spec: SandboxSpec, sandbox_id: str, timeout_s: float = 60.0
    ) -> BubblewrapContainer:
        """Start a sandbox; see ``Backend.start``."""
        self.check(spec)
        with contextlib.ExitStack() as stack:
            plan, held = self._held_plan(spec)
            stack.callback(self._uses.release, held)
            request = _start_request(plan, spec, _group_limits(spec, self.capabilities))
            sock = self._running_launcher().start(request, plan.key, plan.template)
            stack.callback(sock.close)
            reply = await_start(sock, sandbox_id, timeout_s)
            container = BubblewrapContainer(sandbox_id, sock, reply, request["kuid"], plan, spec)
            stack.pop_all()
        container.freed = weakref.finalize(container, self._uses.release, held)
        self._containers.add(container)
        return container

    def _plan(self, spec: SandboxSpec) -> Plan:
        if spec.image in (None, "host"):
            return host.host_plan(spec.read_only)
        if spec.read_only:
            raise SpecError("read_only directories can be shown in image='host' only")
        return imaged.image_plan(str(spec.image), Store())

    def _held_plan(self, spec: SandboxSpec) -> tuple[Plan, tuple[str, ...]]:
        """Return a plan, and keep its image from being removed while a sandbox of it runs."""
        for _ in range(_MAX_TRIES):
            with contextlib.suppress(FileNotFoundError):  # it is being replaced
                plan = self._plan(spec)
                if plan.image is None:
                    return plan, ()
                return plan, self._uses.hold(Store(), plan.image.layers)
        raise ImageNotFound(
            f"image {spec.image!r} is replaced all the time; start from a name that stays"
        )

    def _running_launcher(self) -> Launcher:
        with self._lock:
            if self._launcher is None or not self._launcher.is_usable():
                if self._launcher is not None:
                    self._launcher.close()
                self._launcher = Launcher()
            return self._launcher

    def reap(self) -> list[str]:
        """Remove what owners that were killed left behind: control groups, and nothing else.

        Returns:
            The paths of what was removed.

        Raises:
            BackendUnavailable: If there is no bubblewrap, or the launcher does not start.
        """
        find_bwrap()
        return self._running_launcher().swept()

    def close(self) -> None:
        """Kill every sandbox that is left; see ``Backend.close``."""
        for container in tuple(self._containers):
            container.kill()
        with self._lock:
            launcher, self._launcher = self._launcher, None
        if launcher is not None:
            launcher.close()


def _start_request(plan: Plan, spec: SandboxSpec, limits: dict[str, float]) -> dict[str, Any]:
    size, shm_size = _tmpfs_sizes(spec)
    request = {
        "argv": [find_bwrap()[0], *plan.argv],
        "kuid": _draw_kuid(plan) if os.geteuid() == 0 else None,
        "size": size,
        "identity": {**vars(plan.identity), "rlimits": _rlimits(spec, limits)},
        "limits": limits,
        "shm_size": shm_size,
        "writable": plan.writable,
        "late": plan.late,
        "run_dir": plan.run_dir,
    }
    if plan.layers:
        request["layers"] = len(plan.layers)
    return request


def _draw_kuid(plan: Plan) -> int:
    if plan.layers:
        return random.SystemRandom().choice(_KUID_RANGES)
    return random.SystemRandom().choice(_KUIDS)


def _tmpfs_sizes(spec: SandboxSpec) -> tuple[int, int]:
    """Return how much may be written to disk and to shared memory.

    Both are memory, and the kernel's killer does not free files: a sandbox that may fill its
    memory with them would lose all its processes.

    Raises:
        SpecError: If the disk limit leaves nothing of the memory limit to processes.
    """
    memory, disk = spec.resources.memory_bytes, spec.resources.disk_bytes
    if memory is None:
        return disk or _DEFAULT_DISK_BYTES, _SHM_BYTES
    shm = min(_SHM_BYTES, memory // 16)
    if disk is None:
        return min(_DEFAULT_DISK_BYTES, memory // 2), shm
    if disk + shm > memory * 15 // 16:
        raise SpecError(
            f"embedded sandboxes keep their files in memory, so disk ({disk} bytes) has to be well "
            f"below memory ({memory} bytes); raise memory, or lower disk"
        )
    return disk, shm


def _group_limits(spec: SandboxSpec, holds: Capabilities) -> dict[str, float]:
    """Return the limits that control groups are to hold: none unless any was asked for."""
    asked = spec.resources
    limits: dict[str, float] = {}
    if holds.memory == "cgroup" and asked.memory_bytes is not None:
        limits["memory"] = asked.memory_bytes
    if holds.cpu == "cgroup" and asked.cpus is not None:
        limits["cpus"] = asked.cpus
    if holds.pids == "cgroup" and (limits or asked.pids is not None):
        limits["pids"] = (asked.pids or DEFAULT_PIDS) + _OWN_PIDS
    return limits


def _rlimits(spec: SandboxSpec, groups: dict[str, float]) -> list[tuple[str, int]]:
    """Return the limits that each process inside gets; they can only be lowered inside."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    nofile = _NOFILE if hard == resource.RLIM_INFINITY else min(_NOFILE, hard)
    limits = [("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", nofile)]
    if "pids" not in groups:
        # Counted in the sandbox's own user namespace, so that sandboxes do not share it.
        limits.append(("RLIMIT_NPROC", spec.resources.pids or DEFAULT_PIDS))
    if spec.resources.memory_bytes is not None and "memory" not in groups:
        limits.append(("RLIMIT_AS", spec.resources.memory_bytes))
    return limits


@functools.cache
def find_bwrap() -> tuple[str, tuple[int, ...]]:
    """Return the path of bwrap and its version.

    Raises:
        BackendUnavailable: If there is none, or it is too old; says how to get one.
    """
    path = shutil.which("bwrap", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")
    if path is None:
        raise BackendUnavailable(
            "embedded sandboxes need bubblewrap, which is not installed; "
            "install it with: apt-get install bubblewrap"
        )
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    version = tuple(map(int, found.groups())) if found else (0, 0, 0)
    if version < _MINIMUM_VERSION:
        raise BackendUnavailable(
            f"embedded sandboxes need bubblewrap 0.8.0 or newer, and {path} says "
            f"{text.strip()!r}; upgrade the package, or use backend='docker'"
        )
    return path, version
