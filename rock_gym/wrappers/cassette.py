"""Cassettes: one file of JSON lines, the first of which says what was recorded and by what.

Each line is written at once and whole, so a crash loses the last one at most; who reads leaves a
torn last line out.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from rock_gym._version import __version__
from rock_gym.errors import CassetteError
from rock_gym.gem.catalog import GEM_VERSION

__all__ = ["FORMAT", "Cassette", "Writer", "versions"]

FORMAT = 1
"""The number of this way to write cassettes."""


def versions() -> dict[str, str]:
    """Return the versions of all that decides what an environment gives."""
    return {
        "rock_gym": __version__,
        "gem": GEM_VERSION,
        "gymnasium": gym.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


class Writer:
    """Writes a new cassette.

    Args:
        path: A file that is not there yet, so that no recording is ever lost to the next.
        header: What the first line says beside the format, the time and the versions.

    Raises:
        CassetteError: If the file is there already or cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str], header: dict[str, Any]) -> None:
        self.path = Path(path)
        self._pid = os.getpid()
        try:
            self._file = open(path, "xb", buffering=0)  # noqa: SIM115
        except FileExistsError as error:
            raise CassetteError(
                f"{self.path} is there already: record into another file, or remove it first"
            ) from error
        except OSError as error:
            raise CassetteError(f"{self.path} cannot be written: {error.strerror}") from error
        self._begun_s = time.monotonic()
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._append(
            {"cassette": FORMAT, "created": created, "versions": versions(), **header},
        )

    def write(self, line: dict[str, Any]) -> None:
        """Append a line, with the seconds since the recording began.

        Raises:
            CassetteError: If it cannot be written. The lines before it stay readable.
        """
        self._append({**line, "at_s": round(time.monotonic() - self._begun_s, 6)})

    def _append(self, line: dict[str, Any]) -> None:
        if self._file.closed:
            raise CassetteError(f"{self.path} is closed: nothing more can be recorded into it")
        if self._pid != os.getpid():
            raise CassetteError(
                f"{self.path} is recorded by the process that this one was forked from: "
                "record into a file of your own"
            )
        # Escaped, because texts may hold halves of surrogate pairs, which UTF-8 cannot say.
        data = memoryview(json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        start = self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            # The next line must not be glued to half of this one.
            with contextlib.suppress(OSError):
                self._file.truncate(start)
                self._file.seek(start)
            raise CassetteError(f"{self.path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """End the recording. Twice is fine."""
        self._file.close()


class Cassette:
    """A cassette to be read.

    Args:
        path: The file.

    Attributes:
        path: The file.
        header: Its first line.

    Raises:
        CassetteError: If it is no cassette, or one of another format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        header = next(self._read(), None)
        if header is None or "cassette" not in header[1]:
            raise CassetteError(f"{self.path} is no cassette: its first line does not say so")
        self.header = header[1]
        if self.header["cassette"] != FORMAT:
            raise CassetteError(
                f"{self.path} is a cassette of format {self.header['cassette']!r}, and this "
                f"version reads {FORMAT}: use rock-gym {self._recorded_by()}"
            )

    @property
    def is_vector(self) -> bool:
        """Whether it is of a vector environment."""
        return self.header.get("kind") == "vector"

    @property
    def num_envs(self) -> int:
        """How many environments it is of."""
        return int(self.header.get("num_envs", 1))

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each line after the first, with its number.

        Raises:
            CassetteError: If one is broken, unless it is the last.
        """
        read = self._read()
        next(read)
        return read

    def mismatch(self, line: int, recorded: str, given: str, strict: bool) -> CassetteError:
        """Return the error for something that is done otherwise than a line has it."""
        advice = ", or play it back with strict=False" if strict else ""
        return CassetteError(
            f"line {line} of {self.path} recorded {recorded}, not {given}: do as was done{advice}"
        )

    def _read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            with open(self.path, "rb") as file:
                for number, data in enumerate(file, start=1):
                    if not data.endswith(b"\n"):
                        return  # whoever wrote it died over it
                    yield number, self._parse(number, data)
        except OSError as error:
            raise CassetteError(f"{self.path} cannot be read: {error.strerror}") from error

    def _parse(self, number: int, data: bytes) -> dict[str, Any]:
        try:
            line = json.loads(data)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise CassetteError(f"line {number} of {self.path} is broken: it is no JSON object")
        return line

    def _recorded_by(self) -> str:
        return str((self.header.get("versions") or {}).get("rock_gym", "of another version"))
