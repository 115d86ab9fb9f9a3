"""What the engine is told about a container: limits, rights, network, and how it ends.

Nothing an episode can choose weakens any of it: there is no field for privileged mode, for host
namespaces or for devices, and the engine's own socket is never mounted.
"""

from __future__ import annotations

import json
import random
from typing import Any

from rock_gym.backends.docker import side
from rock_gym.errors import SpecError
from rock_gym.spec import SandboxSpec

RUN_DIR = "/run/rock-gym"
# Sandboxes on it reach each other, and nothing beyond the engine's machine.
INTERNAL_NETWORK = "rock-gym-internal"
DEFAULT_WORKDIR = "/work"
_PIP = ("PIP_BREAK_SYSTEM_PACKAGES=1", "PIP_ROOT_USER_ACTION=ignore")
_CLOSED_HOME = "/home/user"
AGENT_PATH = f"{RUN_DIR}/.agent"

LABEL = "rock-gym.sandbox"
LABEL_OWNER = "rock-gym.owner"
LABEL_POOL = "rock-gym.pool"
LABEL_SPEC = "rock-gym.spec"
LABEL_MARK = "rock-gym.mark"
LABEL_LEASE = "rock-gym.lease"
LABELS = (LABEL, LABEL_OWNER, LABEL_POOL, LABEL_SPEC, LABEL_MARK, LABEL_LEASE)

# What dpkg, apt, tar and su need of root's rights, and nothing that reaches past the container.
_KEPT_RIGHTS = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"]
# Files of the kernel that tell about the machine. The first line is newer engines' addition.
_MASKED = [
    *("/sys/devices/virtual/powercap", "/proc/interrupts"),
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"),
]
_MASKED_STRICT = ["/sys/kernel", "/sys/fs/cgroup"]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_DEFAULT_PIDS = 512
_STRICT_PIDS = 128
_STRICT_MEMORY_BYTES = 512 << 20
_STRICT_TMPFS_BYTES = 256 << 20
_SHM_BYTES = 64 << 20
_RUN_BYTES = 256 << 20
_NOFILE = 4096
# One for the first process, as users count only their own.
_OWN_PROCESSES = 1
_OOM_SCORE = 500
_CPU_PERIOD_US = 100_000
_BYTES_PER_INODE = 4096
_LEAST_INODES = 512

# Users of strict containers: a stretch that no distribution or user database hands out, drawn at
# random so that no two sandboxes are the same user to the kernel.
_STRICT_UIDS = range(0x6000_0000, 0x6FFF_0000)

# The agent comes over the standard input, as a read-only root takes no files and a mount would
# have to be cleaned up. Nothing else is sent before it answers, so reading ahead does no harm.
_BOOT = "umask 077; head -c {size} >{path} && chmod 700 {path} && exec {path} {mode}"


def container_config(
    spec: SandboxSpec,
    sandbox_id: str,
    image: dict[str, Any],
    *,
    agent_bytes: int,
    labels: dict[str, str],
    quota: bool,
    door: str | None = None,
) -> dict[str, Any]:
    """Return the engine's description of a container.

    Args:
        spec: What it is to be.
        sandbox_id: Its name.
        image: What the engine knows of its image.
        agent_bytes: The size of the first process's program.
        labels: Its labels.
        quota: Whether the storage driver can limit the size of its root.
        door: A directory to show at ``side.MOUNTED_AT``.
    """
    strict = spec.profile == "strict"
    closed = is_closed(spec, quota)
    workdir = workdir_of(spec, image, quota)
    lease = spec.lifetime == "lease"
    user = image["Config"].get("User") or ""
    if strict:
        uid = random.SystemRandom().choice(_STRICT_UIDS)
        user = f"{uid}:{uid}"
    mounts = _tmpfs(spec, workdir, user, closed)
    boot = _BOOT.format(size=agent_bytes, path=AGENT_PATH, mode="lease" if lease else "owner")
    return {
        "Image": image["Id"],
        "Hostname": "sandbox",
        "Domainname": "",
        "User": user,
        "Env": _environment(image, closed),
        # The engine makes the directory as root's, and so it would stay below a tmpfs.
        "WorkingDir": "/" if workdir in mounts else workdir,
        # None, so that a commit has none to undo.
        "Entrypoint": [""],
        "Cmd": ["/bin/sh", "-c", boot],
        "Labels": labels,
        "OpenStdin": True,
        # The end of our attachment is the end of its input, and so of the container.
        "StdinOnce": not lease,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "StopSignal": "SIGKILL",
        "Healthcheck": {"Test": ["NONE"]},
        "ExposedPorts": {f"{inner}/tcp": {} for inner, _ in spec.ports},
        "HostConfig": {
            **_host_config(spec, mounts, closed, lease, _root_bytes(spec, image, quota)),
            "Mounts": _binds(spec, door),
        },
    }


def _environment(image: dict[str, Any], closed: bool) -> list[str]:
    # Not the spec's own variables: they may be secrets, and commits and inspections show these.
    # As in embedded sandboxes: who is root in a sandbox may install what they like. The image's own
    # come later, and so win.
    environment = [*_PIP, *(image["Config"].get("Env") or [])]
    if closed:
        environment.append(f"HOME={_CLOSED_HOME}")
    return environment


def is_closed(spec: SandboxSpec, quota: bool) -> bool:
    """Whether the root is read-only. So it is also where only tmpfs can hold a limit on files."""
    return spec.profile == "strict" or (spec.resources.disk_bytes is not None and not quota)


def bounded_places(spec: SandboxSpec, image: dict[str, Any], quota: bool) -> tuple[str, ...]:
    """Return where a container with a read-only root can write: all of that is memory."""
    if not is_closed(spec, quota):
        return ()
    return (workdir_of(spec, image, quota), _CLOSED_HOME, "/tmp")


def check_sizes(spec: SandboxSpec, quota: bool) -> None:
    """Refuse a disk limit that leaves nothing of the memory limit to processes.

    The kernel's killer does not free files: a sandbox that may fill its memory with them would lose
    all its processes.

    Raises:
        SpecError: If it is so.
    """
    memory, disk = spec.resources.memory_bytes, spec.resources.disk_bytes
    if memory is None or disk is None or not is_closed(spec, quota):
        return
    if disk + _shm_bytes(spec) > memory * 15 // 16:
        raise SpecError(
            f"this engine cannot limit files on disk, so they are kept in memory: disk ({disk} "
            f"bytes) has to be well below memory ({memory} bytes); raise memory, or lower disk"
        )


def _shm_bytes(spec: SandboxSpec) -> int:
    memory = spec.resources.memory_bytes
    return spec.shm_bytes or (_SHM_BYTES if memory is None else min(_SHM_BYTES, memory // 16))


def workdir_of(spec: SandboxSpec, image: dict[str, Any], quota: bool) -> str:
    """Return where work is done: the image's own directory, where it has one."""
    own = image["Config"].get("WorkingDir") or ""
    if is_closed(spec, quota) or own in ("", "/"):
        return DEFAULT_WORKDIR
    # The engine would resolve it as root, in its own time, wherever it leads.
    if not own.startswith("/") or own.split("/")[1] in ("proc", "sys", "dev"):
        raise SpecError(f"the image's working directory {own!r} is not one to work in")
    return str(own)


def _root_bytes(spec: SandboxSpec, image: dict[str, Any], quota: bool) -> int | None:
    """Return the size of the root to ask the storage driver for, if it is to hold one."""
    disk = spec.resources.disk_bytes
    if disk is None or not quota:
        return None
    # There the files of the image count as well.
    return disk + (image["Size"] if image.get("GraphDriver", {}).get("Name") == "btrfs" else 0)


def _host_config(
    spec: SandboxSpec, mounts: dict[str, str], closed: bool, lease: bool, root_bytes: int | None
) -> dict[str, Any]:
    resources = spec.resources
    strict = spec.profile == "strict"
    memory = resources.memory_bytes or (_STRICT_MEMORY_BYTES if strict else 0)
    pids = resources.pids or (_STRICT_PIDS if strict else _DEFAULT_PIDS)
    config: dict[str, Any] = {
        "NetworkMode": INTERNAL_NETWORK if spec.network == "internal" else spec.network,
        "CapDrop": ["ALL"],
        "CapAdd": [] if strict else _KEPT_RIGHTS,
        "SecurityOpt": ["no-new-privileges:true"],
        "Privileged": False,
        "ReadonlyRootfs": closed,
        "Init": False,
        # It would take the files of one whose first process has died, and can be started again.
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "none", "Config": {}},
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "Memory": memory,
        "MemorySwap": memory,
        "PidsLimit": pids + _OWN_PROCESSES,
        "ShmSize": _shm_bytes(spec),
        "OomScoreAdj": _OOM_SCORE,
        "Ulimits": _ulimits(spec),
        "Tmpfs": mounts,
        "MaskedPaths": [*_MASKED, *(_MASKED_STRICT if strict else ())],
        "ReadonlyPaths": _READ_ONLY,
    }
    if resources.cpus is not None:
        config["CpuPeriod"] = _CPU_PERIOD_US
        config["CpuQuota"] = max(1000, round(resources.cpus * _CPU_PERIOD_US))
    if root_bytes is not None:
        config["StorageOpt"] = {"size": str(root_bytes)}
    if spec.gpus is not None:
        config["DeviceRequests"] = [_device_request(spec.gpus)]
    if spec.ports:
        config["PortBindings"] = {
            f"{inner}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(outer or "")}]
            for inner, outer in spec.ports
        }
    return config


def _binds(spec: SandboxSpec, door: str | None) -> list[dict[str, Any]]:
    shown = [(path, path) for path in spec.read_only]
    if door is not None:
        shown.append((door, side.MOUNTED_AT))
    return [
        {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}
        for source, target in shown
    ]


def _ulimits(spec: SandboxSpec) -> list[dict[str, Any]]:
    limits = {"core": 0, "nofile": _NOFILE, **dict(spec.ulimits)}
    return [{"Name": name, "Soft": limit, "Hard": limit} for name, limit in limits.items()]


def _tmpfs(spec: SandboxSpec, workdir: str, user: str, closed: bool) -> dict[str, str]:
    base = "rw,nosuid,nodev,exec,mode=1777"
    memory = spec.resources.memory_bytes or 4 * _RUN_BYTES
    places = {RUN_DIR: f"{base},size={min(_RUN_BYTES, memory // 4)}"}
    size = spec.resources.disk_bytes or min(_STRICT_TMPFS_BYTES, memory // 2)
    if closed:
        bounded = f"{base},size={size},nr_inodes={max(_LEAST_INODES, size // _BYTES_PER_INODE)}"
        uid, _, gid = user.partition(":")
        if uid.isdigit() and gid.isdigit():
            bounded += f",uid={uid},gid={gid}"
        places = dict.fromkeys((RUN_DIR, workdir, _CLOSED_HOME, "/tmp"), bounded)
    elif user not in ("", "0", "root", "0:0") and workdir == DEFAULT_WORKDIR:
        places[workdir] = base
    return places


def _device_request(gpus: str) -> dict[str, Any]:
    """Read ``"all"``, a number, or ids with commas between."""
    request: dict[str, Any] = {"Driver": "", "Capabilities": [["gpu"]], "Options": {}}
    if gpus == "all":
        return {**request, "Count": -1}
    if gpus.isdigit():
        return {**request, "Count": int(gpus)}
    return {**request, "DeviceIDs": gpus.split(",")}


def spec_label(spec: SandboxSpec) -> str:
    """Return a spec as a label. Variables may be secrets, and labels can be read by anybody."""
    return json.dumps({**spec.to_json(), "env": {name: "" for name, _ in spec.env}})
