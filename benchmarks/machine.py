"""What the figures were measured on. No name of a host: figures are published."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from benchmarks.peers import venvs


def describe() -> dict[str, str]:
    """Tell the machine and the versions of all that is measured."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        "CPU": f"{_cpu_model()}, {cores} cores",
        "memory": f"{memory_gib:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
        "load at the start": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
    }
    for name in ("rock-gym", "gymnasium", "gem-llm", "numpy", "starlette", "uvicorn"):
        found[name] = _version(name)
    found["bubblewrap"] = _said("bwrap", "--version").removeprefix("bubblewrap ")
    found["Docker Engine"] = _said("docker", "version", "--format", "{{.Server.Version}}")
    return {**found, **venvs.versions()}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "none"
    return done.stdout.strip() if done.returncode == 0 else "none"
