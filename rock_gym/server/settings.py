"""What a server is told when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rock_gym.envs.arguments import check_directories, check_imports
from rock_gym.errors import SpecError

MIB = 1 << 20

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server is told when it starts; see ``rock-gym serve --help``.

    Attributes:
        backend: ``"auto"`` or a backend's name.
        aliases: Images that clients may ask for by another name: ``{"python:3.11": "host"}``.
        token: What clients have to show as a bearer token; None for no check, on loopback only.
        hosts: Names by which the server may be called while there is no token. A web page that
            rebinds its own name to this machine calls it by that one.
        strict: Whether failures have real HTTP statuses for clients that do not ask for them.
        pull: When an engine fetches images: ``"never"`` or ``"missing"``.
        network: The network of sandboxes.
        adopt: Whether containers outlive a killed server, to be taken over by the next one.
        state: The file that remembers ids beyond the end of the server; None for none.
        warm: Spares that are kept for each kind of sandbox that was started lately.
        gem_imports: Modules that register environments with GEM beside its own.
        gem_path: Directories that they are found in; shown in sandboxes, read-only.
        max_sandboxes: Sandboxes and environments at once.
        max_threads: Blocking calls at once.
        calls_per_sandbox: Calls at once in one sandbox; more wait.
        max_body_bytes: The longest JSON body.
        max_upload_bytes: The longest upload.
        max_read_bytes: The longest file that is returned as JSON.
        command_limit_s: What a command may take at most, whatever a client asks for.
        idle_s: After how long an unused sandbox is stopped, if the client does not say.
        keep_stopped_s: How long a stopped one keeps its files for a restart.
    """

    backend: str = "auto"
    aliases: Mapping[str, str] = field(default_factory=dict)
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = LOOPBACK
    strict: bool = False
    pull: str = "never"
    network: str = "none"
    adopt: bool = False
    state: str | None = None
    warm: int = 1
    gem_imports: tuple[str, ...] = ()
    gem_path: tuple[str, ...] = ()
    max_sandboxes: int = 2000
    max_threads: int = 1024
    calls_per_sandbox: int = 32
    max_body_bytes: int = 16 * MIB
    max_upload_bytes: int = 1024 * MIB
    max_read_bytes: int = 64 * MIB
    command_limit_s: float = 3600.0
    idle_s: float = 1800.0
    keep_stopped_s: float = 600.0

    def __post_init__(self) -> None:
        check_imports(self.gem_imports)
        check_directories("gem_path", self.gem_path)
        if self.pull not in ("never", "missing"):
            raise SpecError(f"pull must be 'never' or 'missing', not {self.pull!r}")
        if self.adopt and self.state is None:
            raise SpecError(
                "containers can be taken over only by who knows of them: pass --state as well"
            )
        if self.token is not None and not self.token.strip():
            raise SpecError(
                "the token is empty; leave it out, or make one with: openssl rand -hex 32"
            )
        for name in ("max_sandboxes", "max_threads", "calls_per_sandbox", "max_body_bytes"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} must be at least 1, not {getattr(self, name)!r}")
