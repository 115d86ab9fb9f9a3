"""What an agent reads, made of the parts that GEM gives."""

from __future__ import annotations

from typing import Any

__all__ = ["compose"]


def compose(text: str, info: dict[str, Any]) -> str:
    """Return GEM's text between the prefix and the suffix of its info, each on lines of its own."""
    prefix, suffix = info.get("prefix"), info.get("suffix")
    if prefix is None and type(suffix) is str and suffix and text and text[-1] != "\n":
        return f"{text}\n{suffix}"  # as most games have it
    composed = ""
    for part in (prefix, text, suffix):
        if isinstance(part, str) and part:
            gap = "\n" if composed and not composed.endswith("\n") else ""
            composed = f"{composed}{gap}{part}"
    return composed
