"""How a sandbox or an environment is shown by ``get_status``, in ROCK's names and types.

ROCK's client is strict about them: ``status`` is an object while nothing is alive, ``host_name``
and ``memory`` are strings, and the states are ROCK's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from rock_gym._version import __version__
from rock_gym.backends.base import Statistics
from rock_gym.spec import SandboxSpec
from rock_gym.status import Transition

HOST_NAME = "localhost"
HOST_IP = "127.0.0.1"

_EVENTS = {"running": "alive", "stopped": "stop", "deleted": "delete", "pending": "restart"}


@dataclass(frozen=True, slots=True)
class View:
    """What there is to show.

    Attributes:
        id: The id.
        state: pending, running, stopped or deleted.
        is_alive: Whether it can be used.
        image: The image by the client's name.
        spec: What its sandbox was asked to be.
        created_s: When it was asked for, in seconds since the epoch.
        history: Its states so far.
        user: Who asked for it: user_id, experiment_id, namespace.
        failure: Why it did not start.
        stops_s: When it will be stopped if nobody uses it.
        deleted_s: When its files will be freed.
        more: What else is to be shown.
    """

    id: str
    state: str
    is_alive: bool
    image: str | None
    spec: SandboxSpec
    created_s: float
    history: Sequence[Transition] = ()
    user: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None
    stops_s: float | None = None
    deleted_s: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def status(view: View) -> dict[str, Any]:
    """Return ``get_status``'s result."""
    started = next((each.time_s for each in view.history if each.state == "running"), None)
    last = view.history[-1] if view.history else None
    stopped = last.time_s if last is not None and last.state in ("stopped", "deleted") else None
    return {
        "sandbox_id": view.id,
        "status": _phases(view, started),
        "state": view.state,
        "port_mapping": {str(inner): outer for inner, outer in view.spec.ports},
        "host_name": HOST_NAME,
        "host_ip": HOST_IP,
        "is_alive": view.is_alive,
        "image": view.image,
        "gateway_version": __version__,
        "swe_rex_version": None,
        "user_id": view.user.get("user_id", "default"),
        "experiment_id": view.user.get("experiment_id", "default"),
        "namespace": view.user.get("namespace", "default"),
        "cpus": view.spec.resources.cpus,
        "memory": size_text(view.spec.resources.memory_bytes) or "",
        "num_gpus": None,
        "accelerator_type": None,
        "disk": size_text(view.spec.resources.disk_bytes),
        "disk_limit_rootfs": size_text(view.spec.resources.disk_bytes),
        "start_time": when(started),
        "stop_time": when(stopped),
        "create_time": when(view.created_s),
        "archive_time": None,
        "delete_time": None,
        "auto_stop_time": when(view.stops_s),
        "auto_archive_time": None,
        "auto_delete_time": when(view.deleted_s),
        "state_history": _transitions(view.history),
        **view.more,
    }


def _phases(view: View, started_s: float | None) -> dict[str, Any]:
    """Tell how far the start is. The image is looked for before it begins."""
    begun = when(view.created_s)
    run: dict[str, Any] = {"status": "running", "message": "starting", "started_at": begun}
    if view.failure is not None:
        run |= {"status": "failed", "message": view.failure}
    elif started_s is not None:
        run |= {"status": "success", "message": "started", "completed_at": when(started_s)}
    return {"image_pull": {"status": "success", "message": "the image is here"}, "docker_run": run}


def _transitions(history: Sequence[Transition]) -> list[dict[str, str]]:
    return [
        {
            "from_state": before.state,
            "to_state": after.state,
            "event": _EVENTS.get(after.state, after.state),
            "timestamp": when(after.time_s) or "",
            "reason": after.reason,
        }
        for before, after in pairwise(history)
    ]


def when(time_s: float | None) -> str | None:
    """Return a time as ISO 8601, in UTC."""
    if time_s is None:
        return None
    return datetime.fromtimestamp(time_s, timezone.utc).isoformat(timespec="milliseconds")


def size_text(size: int | None) -> str | None:
    """Return a size as ROCK writes it: ``"8.00g"``."""
    if size is None:
        return None
    for unit, bytes_in_it in (("t", 1 << 40), ("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)):
        if size >= bytes_in_it:
            return f"{size / bytes_in_it:.2f}{unit}"
    return str(size)


def percentages(
    now: Statistics, before: tuple[float, float] | None, time_s: float, cpus: float | None
) -> dict[str, float]:
    """Return what is used in per cent of what may be; what is not known counts as nothing.

    Args:
        now: What is used now.
        before: CPU seconds that were used at an earlier time, and that time.
        time_s: The time now, by the same clock.
        cpus: CPUs that may be used.
    """
    cpu = 0.0
    if before is not None and now.cpu_s is not None and time_s > before[1]:
        cpu = 100 * (now.cpu_s - before[0]) / (time_s - before[1]) / (cpus or 1.0)
    return {
        "cpu": max(0.0, round(cpu, 2)),
        "mem": _share(now.memory_bytes, now.memory_limit_bytes),
        "disk": _share(now.disk_bytes, now.disk_limit_bytes),
    }


def _share(used: int | None, limit: int | None) -> float:
    return round(100 * used / limit, 2) if used is not None and limit else 0.0
