"""All items together."""

from __future__ import annotations

from rock_gym.doctor.checks import Report
from rock_gym.doctor.embedded import examine_embedded
from rock_gym.doctor.engine import examine_docker
from rock_gym.doctor.guest import examine_gem
from rock_gym.doctor.machine import examine_machine, examine_ray


def examine() -> Report:
    """Look at everything, which takes some seconds where an engine answers."""
    embedded, docker = examine_embedded(), examine_docker()
    checks = [*examine_machine(), *embedded, *docker, *examine_gem(), *examine_ray()]
    works = [
        name
        for name, part in (("bubblewrap", embedded), ("docker", docker))
        if any(check.name == "sandbox" and check.state == "ok" for check in part)
    ]
    return Report(works[0] if works else None, tuple(checks))
