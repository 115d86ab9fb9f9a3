"""What a sandbox is asked to be: image, network, resources. Plain frozen values.

The size grammar is ROCK's: a number and an optional unit, all units powers of 1024, a bare
number is bytes. It stands here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from rock_gym.errors import SpecError

if TYPE_CHECKING:
    from typing_extensions import Unpack

_KIB = 1024
_UNITS = {"": 1, "b": 1, "k": _KIB, "m": _KIB**2, "g": _KIB**3, "t": _KIB**4}
_UNITS |= {f"{unit}{tail}": _UNITS[unit] for unit in "kmgt" for tail in ("b", "i", "ib")}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)")

MIN_MEMORY_BYTES = 16 * _KIB**2
MAX_MEMORY_BYTES = 64 * _KIB**4
MIN_DISK_BYTES = _KIB**2
MIN_CPUS = 0.01
MAX_CPUS = 4096.0
MAX_PIDS = 4_194_304


def parse_size(value: int | float | str, name: str = "size") -> int:
    """Read a size in bytes from ``"8g"``, ``"512m"``, ``"1.5gi"`` or a number of bytes.

    Args:
        value: The size. Units are b, k, m, g and t, each also as kb, ki or kib, in any case.
        name: What the size is of, for the error.

    Returns:
        The size in bytes.

    Raises:
        SpecError: If it is not a size, or below one byte.
    """
    if isinstance(value, bool):
        raise SpecError(f"{name} must be a size such as '512m' or 8589934592, not {value!r}")
    if isinstance(value, (int, float)):
        if not math.isfinite(value) or value < 1:
            raise SpecError(f"{name} must be at least one byte, not {value!r}")
        return int(value)
    match = _SIZE.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is None or match[2] not in _UNITS:
        raise SpecError(
            f"{name} must be a number with an optional unit b, k, m, g or t, such as '512m' "
            f"or '1.5gi', not {value!r}"
        )
    size = float(match[1]) * _UNITS[match[2]]
    if not 1 <= size < 2**63:
        raise SpecError(f"{name} must be between one byte and 8 EiB, not {value!r}")
    return int(size)


def parse_cpus(value: int | float | str) -> float:
    """Read a number of CPUs from ``2``, ``0.5`` or ``"2"``.

    Raises:
        SpecError: If it is not a number, or not between 0.01 and 4096.
    """
    try:
        cpus = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        cpus = math.nan
    if not MIN_CPUS <= cpus <= MAX_CPUS:
        raise SpecError(f"cpus must be a number from {MIN_CPUS} to {MAX_CPUS:g}, not {value!r}")
    return cpus


@dataclass(frozen=True, slots=True)
class Resources:
    """The ceilings of one sandbox. None means the backend's own default.

    Attributes:
        cpus: CPUs' worth of time per second.
        memory_bytes: Memory, swap included; files on tmpfs count in it.
        disk_bytes: What the sandbox may write to its own file system.
        pids: Processes and threads alive at once.
    """

    cpus: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    pids: int | None = None

    def __post_init__(self) -> None:
        _check_range("memory", self.memory_bytes, MIN_MEMORY_BYTES, MAX_MEMORY_BYTES)
        _check_range("disk", self.disk_bytes, MIN_DISK_BYTES, MAX_MEMORY_BYTES)
        _check_range("pids", self.pids, 1, MAX_PIDS)
        if self.cpus is not None:
            parse_cpus(self.cpus)


def _check_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SpecError(f"{name} must be between {low} and {high}, not {value!r}")


class DockerOptions(TypedDict, total=False):
    """What only the Docker backend can do; see ``SandboxSpec`` for what each means."""

    profile: str
    lifetime: str
    pull: str
    shm: int | float | str
    ulimits: dict[str, int]
    gpus: str | int
    ports: dict[int, int | None]
    run_dir: bool
    dockerfile: str


_CHOICES = {
    "profile": ("default", "strict"),
    "lifetime": ("owner", "lease"),
    "pull": ("never", "missing", "always"),
}
_ULIMIT = re.compile("[a-z]+")
_ONLY_DOCKER = (
    *("profile", "lifetime", "pull", "shm_bytes", "ulimits", "gpus", "ports", "run_dir"),
    "dockerfile",
)


def _read_options(options: DockerOptions) -> dict[str, Any]:
    unknown = set(options) - set(DockerOptions.__annotations__)
    if unknown:
        raise SpecError(
            f"a sandbox has no {sorted(unknown)}; there are {sorted(DockerOptions.__annotations__)}"
        )
    found: dict[str, Any] = {
        name: options[name]
        for name in ("profile", "lifetime", "pull", "run_dir", "dockerfile")
        if name in options
    }
    if "shm" in options:
        found["shm_bytes"] = parse_size(options["shm"], "shm")
    if "gpus" in options:
        found["gpus"] = str(options["gpus"])
    if "ulimits" in options:
        found["ulimits"] = tuple(sorted(options["ulimits"].items()))
    if "ports" in options:
        found["ports"] = tuple(sorted(options["ports"].items(), key=str))
    return found


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """All that decides what a sandbox is like. Hashable, and equal specs are interchangeable.

    Attributes:
        image: A name the backend knows. None means the backend's default.
        network: ``"none"`` or whatever else the backend offers.
        resources: Ceilings.
        env: Environment variables, as sorted pairs.
        read_only: Host directories that are visible inside, read-only, at the same paths. For
            the operator's own code, never for anything an episode can choose.
        profile: What programs inside may do: ``"default"`` is for people who install packages,
            ``"strict"`` for code that nobody has read.
        lifetime: ``"owner"`` ends it with the process that started it, ``"lease"`` at a deadline.
        pull: When the engine fetches the image: ``"never"``, ``"missing"`` or ``"always"``.
        shm_bytes: The size of ``/dev/shm``.
        ulimits: Limits of each process, such as ``("nofile", 1024)``, as sorted pairs.
        gpus: ``"all"``, a number, or ids with commas between.
        ports: Pairs of a port inside and one of the host's loopback, None for any that is free.
        run_dir: Whether the host shares a private directory with it for a socket, over which all
            goes past the engine: GEM steps, commands and files are faster.
        dockerfile: A Dockerfile's text to build the image from, in place of ``image``.
    """

    image: str | None = None
    network: str = "none"
    resources: Resources = field(default_factory=Resources)
    env: tuple[tuple[str, str], ...] = ()
    read_only: tuple[str, ...] = ()
    profile: str = "default"
    lifetime: str = "owner"
    pull: str = "never"
    shm_bytes: int | None = None
    ulimits: tuple[tuple[str, int], ...] = ()
    gpus: str | None = None
    ports: tuple[tuple[int, int | None], ...] = ()
    run_dir: bool = False
    dockerfile: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                words = " or ".join(map(repr, allowed))
                raise SpecError(f"{name} must be {words}, not {getattr(self, name)!r}")
        for name, limit in self.ulimits:
            if not _ULIMIT.fullmatch(name) or isinstance(limit, bool) or limit < -1:
                raise SpecError(f"not a limit of processes: {name!r} {limit!r}")
        for pair in self.ports:
            if not all(port is None or 0 < port < 65536 for port in pair):
                raise SpecError(f"ports are numbers from 1 to 65535, not {pair!r}")
        if self.ports and self.network == "none":
            raise SpecError("ports are published on a network: pass network='bridge' with ports=")
        if self.dockerfile is not None and self.image is not None:
            raise SpecError("image and dockerfile exclude each other: pass one of them")

    def only_docker(self) -> str | None:
        """Name the first thing asked for that only the Docker backend has, if any is."""
        plain = SandboxSpec()
        for name in _ONLY_DOCKER:
            if getattr(self, name) != getattr(plain, name):
                return name
        return None

    @classmethod
    def of(
        cls,
        image: str | None = None,
        *,
        cpus: int | float | str | None = None,
        memory: int | float | str | None = None,
        disk: int | float | str | None = None,
        pids: int | None = None,
        network: str = "none",
        env: dict[str, str] | None = None,
        read_only: tuple[str, ...] = (),
        **more: Unpack[DockerOptions],
    ) -> SandboxSpec:
        """Build a spec from what people write.

        Raises:
            SpecError: If any value makes no sense.
        """
        if image is not None and (not isinstance(image, str) or not image or "\0" in image):
            raise SpecError(f"image must be a non-empty name, not {image!r}")
        return cls(
            image=image,
            network=network,
            resources=Resources(
                cpus=None if cpus is None else parse_cpus(cpus),
                memory_bytes=None if memory is None else parse_size(memory, "memory"),
                disk_bytes=None if disk is None else parse_size(disk, "disk"),
                pids=pids,
            ),
            env=check_env(env or {}),
            read_only=tuple(sorted(set(read_only))),
            **_read_options(more),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``from_json`` reads them back to an equal spec."""
        return {
            **dataclasses.asdict(self),
            "env": dict(self.env),
            "read_only": list(self.read_only),
            "ulimits": dict(self.ulimits),
            "ports": [list(pair) for pair in self.ports],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SandboxSpec:
        """Read what ``to_json`` wrote.

        Raises:
            SpecError: If a key is unknown or a value makes no sense.
        """
        try:
            resources = Resources(**value.get("resources", {}))
            env = check_env(value.get("env", {}))
            rest: dict[str, Any] = {
                key: tuple(item) if isinstance(item, list) else item
                for key, item in value.items()
                if key not in ("resources", "env", "ulimits", "ports")
            }
            ulimits = tuple(sorted(value.get("ulimits", {}).items()))
            ports = tuple((inner, outer) for inner, outer in value.get("ports", ()))
            return cls(**rest, resources=resources, env=env, ulimits=ulimits, ports=ports)
        except TypeError as error:
            raise SpecError(f"not a sandbox spec: {error}") from error


def check_env(env: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return environment variables as sorted pairs.

    Raises:
        SpecError: If a name is empty or holds ``=``, or anything holds a NUL.
    """
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise SpecError(f"environment variables must be strings: {name!r}={value!r}")
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise SpecError(f"not an environment variable: {name!r}")
    return tuple(sorted(env.items()))
