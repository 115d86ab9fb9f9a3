"""Requests to a process that has joined a sandbox, in the form that the forker's children read.

Six words, pairs of words, and texts that end with a zero. See ``launcher/forker/forker.c``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence

OPEN, TERMINAL, READ, WRITE = 1, 2, 3, 4

_HEAD = struct.Struct("=6I")
_DEFAULT_PATH = "/usr/bin:/bin"
_KEEP_MODE = 0xFFFFFFFF


def program_request(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    *,
    start: str | None = None,
    targets: Sequence[Sequence[int]] = (),
    size: tuple[int, int] | None = None,
) -> bytes:
    """Return the request to become a program.

    Args:
        argv: It and its arguments.
        env: All of its environment.
        cwd: The directory that it runs in, which must exist.
        start: A directory to change to after that.
        targets: For each descriptor that is sent along, the numbers that it gets.
        size: Rows and columns of a terminal to run it on, whose descriptor is sent back.
    """
    if size is not None:
        # The terminal takes the place of the only descriptor there is.
        op, pairs = TERMINAL, [0, 0, 0, 1, 0, 2]
    else:
        # The first one that is sent is where answers go.
        numbers = ((place, number) for place, some in enumerate(targets, 1) for number in some)
        op, pairs = OPEN, [word for pair in numbers for word in pair]
    head = _HEAD.pack(op, len(argv), len(env), len(pairs) // 2, *(size or (0, 0)))
    texts = [cwd, start or "", env.get("PATH", _DEFAULT_PATH), *argv]
    texts += [f"{name}={value}" for name, value in env.items()]
    return b"".join((head, struct.pack(f"={len(pairs)}I", *pairs), _texts(texts)))


def read_request(path: str, cwd: str) -> bytes:
    """Return the request to open a regular file for reading."""
    return _HEAD.pack(READ, 0, 0, 0, 0, 0) + _texts((cwd, path))


def write_request(path: str, mode: int | None, cwd: str) -> bytes:
    """Return the request to begin a file; None keeps the mode of one that is there."""
    mode = _KEEP_MODE if mode is None else mode
    return _HEAD.pack(WRITE, mode, 0, 0, 0, 0) + _texts((cwd, path))


def _texts(texts: Sequence[str]) -> bytes:
    return os.fsencode("\0".join((*texts, "")))
