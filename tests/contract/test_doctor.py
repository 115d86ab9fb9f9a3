"""What ``rock-gym doctor`` says of a backend is what that says of itself, and is tried."""

from __future__ import annotations

from typing import Any

from rock_gym.doctor.checks import Check
from rock_gym.doctor.embedded import examine_embedded
from rock_gym.doctor.engine import examine_docker

LIMITS = {"memory": "memory", "processes": "pids", "cpus": "cpu", "disk": "disk"}


def examine(backend: str) -> dict[str, Check]:
    checks = examine_embedded() if backend == "bubblewrap" else examine_docker()
    return {check.name: check for check in checks}


def test_limits_hold_or_hold_in_part(backend: str, start: Any) -> None:
    """Whoever it is run by: an ordinary user may have no control groups."""
    can = start(memory="64m", pids=40, disk="16m").capabilities
    found = examine(backend)
    for name, attribute in LIMITS.items():
        item, how = found[f"limit of {name}"], getattr(can, attribute)
        in_part = how == "none" or (name == "memory" and how == "rlimit")
        assert item.state == ("degraded" if in_part else "ok"), item
        assert how in item.detail or how == "none"
        assert (item.fix is not None) == in_part, item
    for name in ("sandbox", "rights", "system calls", "/proc and /sys", "network"):
        assert found[name].state == "ok", found[name]
