"""Directories that strangers have filled: removed and walked without ever following a link."""

from __future__ import annotations

import os
import stat

# Deeper than any real image; what goes through trees recursively needs a bound.
MAX_DEPTH = 256

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(name: str, parent: int | None = None) -> int:
    """Open a directory that is none other than what its name says, also without its permission.

    Its owner may read it in any case, by changing its mode for a moment.
    """
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode):
            raise
        os.chmod(name, 0o700, dir_fd=parent)
        try:
            return os.open(name, _DIRECTORY, dir_fd=parent)
        finally:
            os.chmod(name, stat.S_IMODE(mode), dir_fd=parent)


def remove(name: str, parent: int | None = None) -> None:
    """Remove a file, or a directory with all that is in it. What is not there is fine."""
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=parent)
        return
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(name, 0o700, dir_fd=parent)
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        for child in os.listdir(fd):
            remove(child, fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)
