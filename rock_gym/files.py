"""What a sandbox does with files."""

from __future__ import annotations

import os
from typing import IO, Any

from rock_gym import transfer
from rock_gym.backends.base import Container
from rock_gym.life import Life
from rock_gym.transfer import OutwardLinks, Progress, Transfer


class Files:
    """The verbs of a ``Sandbox`` that copy files."""

    _container: Container
    _life: Life

    def read_file(self, path: str, encoding: str | None = "utf-8") -> Any:
        """Read a file.

        Args:
            path: Absolute, or relative to the work directory.
            encoding: How to decode it; None returns bytes.

        Returns:
            Its text, or its bytes.

        Raises:
            FileError: If it is not there, not a regular file, not readable, or not such text.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
        """
        with self._life.using():
            return transfer.read_file(self._container, path, encoding)

    def open_file(self, path: str) -> IO[bytes]:
        """Open a file for reading, to be read piece by piece: unbuffered and seekable.

        Args:
            path: Absolute, or relative to the work directory.

        Raises:
            FileError: If it is not there, not a regular file, or not readable.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
        """
        with self._life.using():
            return self._container.open_read(transfer.check_path(path))

    def write_file(
        self, path: str, content: str | bytes | IO[bytes], *, mode: int | None = None
    ) -> None:
        """Write a file; parents are made, and readers see the old file or the new one whole.

        Args:
            path: Absolute, or relative to the work directory.
            content: Text, written as UTF-8, or bytes, or a binary file that is read to its end.
            mode: Permission bits; None keeps those of a file that is replaced, else 0o644.

        Raises:
            FileError: If it cannot be written there, or the disk limit is reached.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
        """
        with self._life.using():
            transfer.write_file(self._container, path, content, mode)

    def upload(
        self,
        local: str | os.PathLike[str],
        remote: str,
        *,
        progress: Progress | None = None,
    ) -> Transfer:
        """Copy a local file, or a folder with all that is in it, to a path inside.

        Each file appears whole or not at all, a folder piece by piece: into one that is there
        already, beside what it holds. Links are copied as links and keep their targets. Modes and
        times are kept, but for those of a folder at ``remote`` that was there before.

        Args:
            local: The file or folder; if it is a link, what that leads to.
            remote: What the copy will be called; relative to the work directory. Missing folders
                on the way are made. A link of that name is replaced, not followed.
            progress: Called with the bytes copied so far and in all, from 0 on, after every MiB.

        Returns:
            What was copied, and what was left out.

        Raises:
            FileError: If something cannot be read or placed, or the disk limit is reached.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
        """
        path = transfer.check_local(local)
        with self._life.using():
            return transfer.upload(self._container, path, remote, progress)

    def download(
        self,
        remote: str,
        local: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        outward_links: OutwardLinks = "refuse",
    ) -> Transfer:
        """Copy a file inside, or a folder with all that is in it, to a local path.

        As ``upload``, the other way round. What is in a sandbox was made by whatever ran there:
        nothing is ever written outside of ``local``, set-user-id bits are dropped, and no link is
        followed, neither one that came along nor one that was here before.

        Args:
            remote: The file or folder; if it is a link, what that leads to inside.
            local: What the copy will be called. Missing folders on the way are made.
            progress: As for ``upload``.
            outward_links: What to do with links that lead out of the folder, or might: whoever
                reads the copy would follow them to files of this machine. ``"refuse"`` is an
                error, ``"skip"`` leaves them out, ``"keep"`` keeps them.

        Returns:
            What was copied, and what was left out.

        Raises:
            FileError: If something cannot be read or placed, or is a link that leads out.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
            SpecError: If an argument makes no sense.
        """
        path = transfer.check_local(local)
        with self._life.using():
            return transfer.download(self._container, remote, path, progress, outward_links)
