"""Directories that strangers have filled: removed and walked without ever following a link."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable

# Deeper than any real image; what goes through trees recursively needs a bound.
MAX_DEPTH = 256
_REMOVE_DEPTH = 100

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_directory(name: str, parent: int | None = None) -> int:
    """Open a directory of ours, also one whose mode forbids us to read it."""
    return _open(name, parent, _DIRECTORY, stat.S_ISDIR)


def open_file(name: str, parent: int) -> int:
    """Open a file of ours for reading, also one whose mode forbids it."""
    return _open(name, parent, _FILE, stat.S_ISREG)


def _open(name: str, parent: int | None, flags: int, right: Callable[[int], bool]) -> int:
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if not right(mode):
            raise
        # Nobody but its owner can get here, and a sandbox that shows it sees it for a moment.
        os.chmod(name, stat.S_IMODE(mode) | stat.S_IRWXU, dir_fd=parent)
        try:
            return os.open(name, flags, dir_fd=parent)
        finally:
            os.chmod(name, stat.S_IMODE(mode), dir_fd=parent)


def remove(name: str, parent: int | None = None) -> None:
    """Remove a file, or a directory with all that is in it. What is not there is fine.

    Through links an archive can build trees of any depth, so what lies deep is moved up first.
    """
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=parent)
        return
    root = _open_to_empty(name, parent)
    try:
        while children := os.listdir(root):
            for child in children:
                _remove(child, root, root, 1)
    finally:
        os.close(root)
    os.rmdir(name, dir_fd=parent)


def _remove(name: str, parent: int, root: int, depth: int) -> None:
    """Remove what is in the tree of ``root``; its deep parts go to ``root`` itself, for later."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    fd = _open_to_empty(name, parent)
    try:
        if depth == _REMOVE_DEPTH:
            for child in os.listdir(fd):
                os.rename(child, f".{secrets.token_hex(16)}", src_dir_fd=fd, dst_dir_fd=root)
        else:
            for child in os.listdir(fd):
                _remove(child, fd, root, depth + 1)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def _open_to_empty(name: str, parent: int | None) -> int:
    mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(name, 0o700, dir_fd=parent)
    return os.open(name, _DIRECTORY, dir_fd=parent)
