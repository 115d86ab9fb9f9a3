"""The values that an examination is made of."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "degraded", "missing"]


@dataclass(frozen=True, slots=True)
class Check:
    """One item.

    Attributes:
        part: What it belongs to: ``"machine"``, ``"embedded"``, ``"docker"``, ``"gem"`` or
            ``"ray"``.
        name: What was looked at.
        state: ``"ok"``: it holds. ``"degraded"``: it holds in part. ``"missing"``: it does not.
        detail: What was found.
        fix: The command that mends it, or None where there is nothing to mend or no command.
    """

    part: str
    name: str
    state: State
    detail: str
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All items.

    Attributes:
        default_backend: What ``backend="auto"`` starts sandboxes with; None where neither works.
        checks: The items, in an order to be read in.
    """

    default_backend: str | None
    checks: tuple[Check, ...]


_INSTALLERS = (
    ("apt-get", "sudo apt-get install -y {}"),
    ("dnf", "sudo dnf install -y {}"),
    ("zypper", "sudo zypper install -y {}"),
    ("pacman", "sudo pacman -S --noconfirm {}"),
    ("apk", "sudo apk add {}"),
)


def install(package: str) -> str:
    """Return the command that installs a package of the distribution."""
    for program, command in _INSTALLERS:
        if shutil.which(program):
            return command.format(package)
    return f"install {package} with the package manager of this machine"
