"""What the launcher has to know to start sandboxes of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rock_gym.images import Image


@dataclass(frozen=True)
class Identity:
    """Who processes inside are.

    Attributes:
        uid: Their user id inside.
        gid: Their group id inside.
        capabilities: A mask of those that they have, over the sandbox alone.
        seccomp: The name of their system call filter.
    """

    uid: int
    gid: int
    capabilities: int
    seccomp: str


@dataclass(frozen=True)
class Plan:
    """What the launcher needs to start sandboxes of one image, but for what each has of its own.

    Attributes:
        key: A name for the template, equal for equal ones.
        template: How the read-only root is built, in the launcher's terms.
        argv: Arguments of bwrap.
        writable: Directories that a sandbox may write to, with their modes.
        late: Where directories lie on the stage that are shown below writable ones, and where
            they are shown.
        environ: Environment of processes inside.
        shell: The best shell inside.
        workdir: Where processes start.
        run_dir: The library's own directory inside.
        script_dir: Where the names of shells are links to a descriptor.
        identity: Who processes inside are.
        layers: Directories that an overlay is laid over, the lowest first; none for ``host``.
        image: The image that these are of, unless it is a mere directory.
    """

    key: str
    template: dict[str, Any]
    argv: tuple[str, ...]
    writable: tuple[tuple[str, int], ...]
    late: tuple[tuple[str, str], ...]
    environ: dict[str, str]
    shell: str
    workdir: str
    run_dir: str
    script_dir: str
    identity: Identity
    layers: tuple[str, ...] = ()
    image: Image | None = None
