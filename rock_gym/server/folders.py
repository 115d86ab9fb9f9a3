"""Folders on their way out of a sandbox, as tar archives that are made inside."""

from __future__ import annotations

from rock_gym.backends.handles import STDOUT, Process
from rock_gym.errors import FileError
from rock_gym.sandbox import Sandbox

# What tar says when a file has changed while it was read.
_CHANGED = 1
_KEPT_BYTES = 2000


class FolderReader:
    """Reads a folder as a tar archive. What is in it was made by whoever ran inside.

    Args:
        process: A tar that writes the archive to its standard output.
        path: The folder, for errors.
    """

    def __init__(self, process: Process, path: str) -> None:
        self._process = process
        self._path = path
        self._errors = b""

    @classmethod
    def open(cls, sandbox: Sandbox, path: str) -> FolderReader:
        """Begin to read a folder.

        Raises:
            FileError: If the sandbox's image has no tar.
            RockGymError: As ``Sandbox.open``.
        """
        return cls(sandbox.open(["tar", "-C", path, "-cf", "-", "."]), path)

    def read(self) -> bytes:
        """Wait for the next piece, and return it; nothing at the end.

        Raises:
            FileError: If something in it could not be read.
            SandboxLost: If the sandbox died.
        """
        while True:
            piece = b""
            for stream, data in self._process.receive():
                if stream == STDOUT:
                    piece += data
                else:
                    self._errors = (self._errors + data)[-_KEPT_BYTES:]
            if piece:
                return piece
            if self._process.exit_code is not None:
                self._check()
                return b""

    def _check(self) -> None:
        if self._process.exit_code not in (0, _CHANGED):
            words = self._errors.decode("utf-8", "replace").strip()
            raise FileError(f"{self._path}: {words}", path=self._path, reason="EIO")

    def close(self) -> None:
        """Give up, and end what makes the archive. Twice is fine."""
        self._process.kill()
        self._process.close()
