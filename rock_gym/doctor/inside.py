"""What holds in a sandbox that runs: looked at and tried from inside."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from rock_gym.doctor.checks import Check
from rock_gym.errors import CommandTimeout
from rock_gym.sandbox import Sandbox

_MEMORY, _PIDS, _DISK = "64m", 40, "16m"

_NAMESPACES = ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup")
# What would tell about the machine, and what would change it.
_SECRET = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug")
_SETTINGS = (
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/net/ipv4/ip_forward",
)
# The settings are opened, and never written to.
_LOOK = f"""
for name in {" ".join(_NAMESPACES)}; do echo "ns $name $(readlink /proc/self/ns/$name)"; done
while read -r name value rest; do
    case $name in CapEff:|NoNewPrivs:|Seccomp:) echo "status $name $value";; esac
done </proc/self/status
for path in {" ".join(_SECRET)}; do
    if [ "$(head -c 1 "$path" 2>/dev/null | wc -c)" != 0 ]; then echo "open $path"; fi
done
for path in {" ".join(_SETTINGS)}; do
    if (: >>"$path") 2>/dev/null; then echo "open $path"; fi
done
cat /proc/net/route /proc/net/ipv6_route 2>/dev/null | while read -r first rest; do
    case "$first ${{rest##* }}" in Iface*|*" lo") ;; *) echo "route $first";; esac
done
"""
_FORKS = f"n=0; while [ $n -lt {2 * _PIDS} ]; do sleep 5 & n=$((n+1)); done"
_CALL_S = 10.0
_FORK_S = 4.0


def examine_inside(part: str, backend: str, fixes: Mapping[str, str]) -> list[Check]:
    """Start a sandbox, look at what stands between it and the machine, and run into its limits.

    Args:
        part: What the items belong to.
        backend: What starts it.
        fixes: What to do where a limit does not hold as it should, by the name of the limit.

    Raises:
        RockGymError: If it does not start, or does not answer.
    """
    begin = time.perf_counter()
    with Sandbox.start(backend=backend, memory=_MEMORY, pids=_PIDS, disk=_DISK) as sandbox:
        sandbox.execute(["true"], check=True)
        took_ms = (time.perf_counter() - begin) * 1000
        return [
            Check(part, "sandbox", "ok", f"answers {took_ms:.0f} ms after its start"),
            *_walls(part, sandbox),
            *_limits(part, sandbox, fixes),
        ]


def _walls(part: str, sandbox: Sandbox) -> list[Check]:
    lines = sandbox.execute(["/bin/sh", "-c", _LOOK], timeout=_CALL_S).stdout.splitlines()
    words = [line.split() for line in lines]
    links = {each[1]: each[2] for each in words if each[0] == "ns" and len(each) == 3}
    status = {each[1].rstrip(":"): each[2] for each in words if each[0] == "status"}
    return [
        _namespaces(part, links),
        _rights(part, status),
        _filter(part, status),
        _masks(part, [each[1] for each in words if each[0] == "open"]),
        _network(part, any(each[0] == "route" for each in words)),
    ]


def _namespaces(part: str, links: dict[str, str]) -> Check:
    unseen = [name for name in _NAMESPACES if name not in links]
    if unseen:
        told = f"cannot be seen from inside: {', '.join(unseen)}"
        return Check(part, "namespaces", "missing", told)
    shared = [
        name for name in _NAMESPACES if links.get(name) == os.readlink(f"/proc/self/ns/{name}")
    ]
    own = ", ".join(name for name in _NAMESPACES if name not in shared)
    if not shared:
        return Check(part, "namespaces", "ok", f"of its own: {own}")
    told = f"of its own: {own}; shared with this process: {', '.join(shared)}"
    fix = None
    if part == "docker" and shared == ["user"]:
        told += " (root inside is root outside, without its rights)"
        fix = 'set "userns-remap": "default" in /etc/docker/daemon.json and restart the engine'
    return Check(part, "namespaces", "degraded", told, fix)


def _rights(part: str, status: dict[str, str]) -> Check:
    held = int(status.get("CapEff", "0"), 16).bit_count()
    gains = status.get("NoNewPrivs") != "1"
    told = f"{held or 'no'} capabilities, {'may' if gains else 'cannot'} gain any"
    # Docker's default profile keeps the seven that package managers need.
    few = held <= (7 if part == "docker" else 0)
    return Check(part, "rights", "missing" if gains or not few else "ok", told)


def _filter(part: str, status: dict[str, str]) -> Check:
    if status.get("Seccomp") == "2":
        return Check(part, "system calls", "ok", "a list of what is allowed (seccomp)")
    return Check(
        part,
        "system calls",
        "missing",
        "no filter: the kernel or the engine was built without seccomp",
        "zgrep CONFIG_SECCOMP_FILTER /proc/config.gz /boot/config-$(uname -r)",
    )


def _masks(part: str, opened: list[str]) -> Check:
    if opened:
        return Check(part, "/proc and /sys", "missing", f"not masked: {', '.join(opened)}")
    return Check(
        part,
        "/proc and /sys",
        "ok",
        "the machine's settings cannot be written, its memory and keys not read",
    )


def _network(part: str, leads_out: bool) -> Check:
    if leads_out:
        return Check(part, "network", "missing", "a route leads out of the sandbox")
    return Check(part, "network", "ok", "none but its own loopback")


def _limits(part: str, sandbox: Sandbox, fixes: Mapping[str, str]) -> list[Check]:
    holds = sandbox.capabilities
    return [
        _limit(part, "memory", holds.memory, _memory_held(sandbox), fixes),
        _limit(part, "processes", holds.pids, _pids_held(sandbox), fixes),
        _limit(part, "cpus", holds.cpu, holds.cpu != "none", fixes),
        _limit(part, "disk", holds.disk, _disk_held(sandbox), fixes),
    ]


def _limit(part: str, name: str, how: str, held: bool, fixes: Mapping[str, str]) -> Check:
    title = f"limit of {name}"
    if not held:
        told = f"said to be held by {how}, and is not" if how != "none" else "nobody holds it"
        return Check(part, title, "degraded" if how == "none" else "missing", told, fixes.get(name))
    if how == "rlimit" and name == "memory":
        told = "held for each process by itself, not for all together (rlimit)"
        return Check(part, title, "degraded", told, fixes.get(name))
    return Check(part, title, "ok", f"held by {how}")


def _memory_held(sandbox: Sandbox) -> bool:
    # What tail is to print at the end it has to keep until then.
    hog = "head -c 200000000 /dev/zero | tail -c 190000000 >/dev/null"
    return sandbox.execute(["/bin/sh", "-c", hog], timeout=_CALL_S).exit_code != 0


def _pids_held(sandbox: Sandbox) -> bool:
    try:
        return sandbox.execute(["/bin/sh", "-c", _FORKS], timeout=_FORK_S).cause == "pids"
    except CommandTimeout as error:  # some shells try again and again
        return error.cause == "pids"


def _disk_held(sandbox: Sandbox) -> bool:
    fill = "head -c 40000000 /dev/zero >fills-the-disk; code=$?; rm -f fills-the-disk; exit $code"
    return sandbox.execute(["/bin/sh", "-c", fill], timeout=_CALL_S).exit_code != 0
