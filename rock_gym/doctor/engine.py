"""The Docker Engine: whether one answers, what it is, and what holds in its containers."""

from __future__ import annotations

import re

from rock_gym.backends.docker.engine import Engine
from rock_gym.doctor.checks import Check, install
from rock_gym.doctor.inside import examine_inside
from rock_gym.errors import BackendUnavailable, ImageNotFound, RockGymError
from rock_gym.gem.image import GEM_IMAGE

PART = "docker"

# Those that mend what let programs out while their container was started, by branch.
_MENDED_RUNC = {2: (1, 2, 8), 3: (1, 3, 3)}
_LIMITS = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "cpus"}
_ENABLE_MEMORY = "add to the kernel's command line: cgroup_enable=memory swapaccount=1"


def examine_docker() -> list[Check]:
    """Look at the engine; the item ``"sandbox"`` says whether it can be used."""
    try:
        engine = Engine()
    except BackendUnavailable as error:
        # Its messages end with what to do.
        detail, _, fix = error.message.rpartition("; ")
        return [Check(PART, "engine", "missing", detail, fix)]
    try:
        return [
            Check(PART, "engine", "ok", f"{engine.info.get('ServerVersion')} at {engine.url}"),
            _runtime(engine),
            _control_groups(engine),
            *_examine_container(engine),
        ]
    except RockGymError as error:
        return [Check(PART, "engine", "missing", error.message, "sudo systemctl restart docker")]
    finally:
        engine.close()


def _runtime(engine: Engine) -> Check:
    with engine.translated():
        parts = engine.api.version().get("Components") or []
    said = next((str(part.get("Version")) for part in parts if part.get("Name") == "runc"), "")
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", said)
    if found is None:
        return Check(PART, "runtime", "ok", f"{engine.info.get('DefaultRuntime', 'its own')}")
    major, minor, patch = map(int, found.groups())
    if (major, minor, patch) < _MENDED_RUNC.get(minor, (1, 4, 0)):
        return Check(
            PART,
            "runtime",
            "degraded",
            f"runc {said}: older than the repairs of November 2025, unless the distribution has "
            "carried them over",
            install("runc"),
        )
    return Check(PART, "runtime", "ok", f"runc {said}")


def _control_groups(engine: Engine) -> Check:
    info = engine.info
    told = f"version {info.get('CgroupVersion', '1')}, driver {info.get('CgroupDriver')}"
    lacking = [name for key, name in _LIMITS.items() if not info.get(key)]
    if lacking:
        told += f"; the engine cannot limit: {', '.join(lacking)}"
        fix = _ENABLE_MEMORY if "memory" in lacking else None
        return Check(PART, "control groups", "degraded", told, fix)
    return Check(PART, "control groups", "ok", told)


def _examine_container(engine: Engine) -> list[Check]:
    try:
        engine.inspect_image(GEM_IMAGE)
    except ImageNotFound:
        fix = "docker pull python:3.11 && rock-gym image build gem"
        return [
            Check(PART, "image of GEM", "missing", f"no {GEM_IMAGE}", fix),
            Check(PART, "sandbox", "missing", "its default image is not there"),
        ]
    image = Check(PART, "image of GEM", "ok", GEM_IMAGE)
    try:
        return [image, *examine_inside(PART, "docker", {"memory": _ENABLE_MEMORY})]
    except RockGymError as error:
        return [image, Check(PART, "sandbox", "missing", error.message)]
