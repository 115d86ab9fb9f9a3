"""Names of images: a repository and a tag, as container engines write them."""

from __future__ import annotations

import re
from urllib.parse import quote

from rock_gym.errors import SpecError

_PART = r"[A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?::[0-9]+)?(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?")
_MAX_LENGTH = 200
_RESERVED = ("host",)
_DEFAULT_TAG = "latest"


def full_name(name: str) -> str:
    """Return a name with its tag.

    Raises:
        SpecError: If it is not a name an image can have.
    """
    if not isinstance(name, str) or len(name) > _MAX_LENGTH or not _NAME.fullmatch(name):
        raise SpecError(
            f"an image's name is letters and digits, with single . _ - or / between, and perhaps "
            f"a tag after a colon, such as 'debian:12'; not {name!r}"
        )
    if name in _RESERVED:
        raise SpecError(f"{name!r} is the name of a built-in image; choose another one")
    return name if ":" in name.rpartition("/")[2] else f"{name}:{_DEFAULT_TAG}"


def file_name(name: str) -> str:
    """Return a file name for a full name; different names have different ones."""
    return quote(name, safe="")
