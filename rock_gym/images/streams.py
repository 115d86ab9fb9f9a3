"""Byte streams of archives: decompressed by what they begin with, counted, and limited."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, Literal, cast

from rock_gym.errors import ImageError, RockGymError

Entry = tuple[tarfile.TarInfo, "IO[bytes] | None"]

CHUNK_BYTES = 1 << 20

# What the headers of one entry may take: long names and extended attributes, not files.
_HEADER_BYTES = 4 << 20

_MAX_FILE_BYTES = 1 << 60
_BLOCK_BYTES = 512

_errors: Any = tarfile  # whose stubs lack some

_TOO_LONG = "the archive is hostile or broken: its headers are longer than any real ones"

_GZIP, _BZIP2, _XZ, _ZSTANDARD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"

_BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class Limits:
    """How much an archive may unpack to, counted over all of its layers.

    Args:
        max_bytes: Bytes of tar streams, after decompression.
        max_entries: Files, folders and links.
    """

    def __init__(self, max_bytes: int, max_entries: int) -> None:
        self._bytes = self._max_bytes = max_bytes
        self._entries = self._max_entries = max_entries

    def take_bytes(self, count: int) -> None:
        """Count bytes; raises ImageError beyond the limit."""
        self._bytes -= count
        if self._bytes < 0:
            raise ImageError(
                f"the archive unpacks to more than {self._max_bytes} bytes; if you trust it, "
                "raise the limit with --max-size, or max_bytes"
            )

    def take_entry(self) -> None:
        """Count an entry; raises ImageError beyond the limit."""
        self._entries -= 1
        if self._entries < 0:
            raise ImageError(f"the archive has more than {self._max_entries} files")


class _Zstandard(io.RawIOBase):
    """Decompresses by the ``zstd`` program, as this Python has no module for it."""

    def __init__(self, source: IO[bytes]) -> None:
        program = shutil.which("zstd")
        if program is None:
            raise ImageError(
                "a layer is compressed with zstd; install it with: apt-get install zstd"
            )
        with tempfile.TemporaryFile() as spool:
            shutil.copyfileobj(source, spool, CHUNK_BYTES)
            spool.seek(0)
            self._process = subprocess.Popen(
                [program, "-dcq"], stdin=spool, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        assert self._process.stdout is not None
        data = self._process.stdout.read(len(buffer))
        if not data and self._process.wait() != 0:
            raise EOFError("zstd: broken data")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._process.kill()
            self._process.communicate()
        super().close()


@contextlib.contextmanager
def decompressed(source: IO[bytes]) -> Iterator[IO[bytes]]:
    """Give the content of a stream, which may be compressed, and close both in the end.

    What it is compressed by is told from its first bytes; without it is a ``BufferedReader``.
    """
    with contextlib.ExitStack() as stack:
        buffered = io.BufferedReader(source, CHUNK_BYTES)  # type: ignore[type-var]
        stack.callback(buffered.close)
        begin = buffered.peek(len(_XZ))
        opened: Any = buffered
        if begin.startswith(_GZIP):
            opened = stack.enter_context(gzip.GzipFile(fileobj=buffered))
        elif begin.startswith(_BZIP2):
            opened = stack.enter_context(bz2.BZ2File(buffered))
        elif begin.startswith(_XZ):
            opened = stack.enter_context(lzma.LZMAFile(buffered))
        elif begin.startswith(_ZSTANDARD):
            opened = stack.enter_context(_Zstandard(buffered))
        yield opened


class Headers:
    """A file from which tarfile reads headers alone, and skips the rest: so it never reads much."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Read, but not more than real headers have."""
        if not 0 <= size <= _HEADER_BYTES:
            raise ImageError(_TOO_LONG)
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        """Go to an offset."""
        return self._file.seek(offset)

    def tell(self) -> int:
        """Return the offset."""
        return self._file.tell()


class _StrictInfo(tarfile.TarInfo):
    """Takes for errors what tarfile takes for the truth."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        """Read a header, but not one of a size below zero, by which tarfile would go back."""
        info = super().frombuf(buf, encoding, errors)
        _check_size(info.size)
        return info

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _StrictInfo:
        """Read a header; one that is none is not the end of the archive."""
        try:
            return super().fromtarfile(tar)
        except (_errors.InvalidHeaderError, _errors.TruncatedHeaderError) as error:
            raise tarfile.ReadError(str(error)) from error


def _check_size(size: int) -> None:
    if not 0 <= size <= _MAX_FILE_BYTES:
        raise ImageError(f"the archive is hostile or broken: it has something of {size} bytes")


@contextlib.contextmanager
def opened_tar(file: object, mode: Literal["r:", "r|"]) -> Iterator[Iterator[Entry]]:
    """Open an archive and go through its entries, with their contents if it is a stream.

    Raises:
        ImageError: If it is broken. tarfile says so in many ways, as it trusts what it reads.
    """
    try:
        with tarfile.open(
            fileobj=cast("IO[bytes]", file), mode=mode, bufsize=CHUNK_BYTES, tarinfo=_StrictInfo
        ) as tar:
            yield _entries(tar, mode == "r|")
    except (*_BROKEN, ValueError, LookupError, OverflowError, RecursionError) as error:
        if isinstance(error, RockGymError):
            raise
        raise ImageError(f"not an archive, or a broken one: {error}") from error


def _entries(tar: tarfile.TarFile, streaming: bool) -> Iterator[Entry]:
    while (entry := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        _check_size(entry.size)  # extended headers may have changed it
        yield entry, (tar.extractfile(entry) if streaming and entry.isreg() else None)


class Tar:
    """The entries of a tar stream, read once from beginning to end.

    Args:
        source: The stream, decompressed.
        limits: What it may hold.
    """

    def __init__(self, source: IO[bytes], limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._budget: int | None = _HEADER_BYTES
        self._digest = hashlib.sha256()
        self._tail = b""

    @property
    def has_end(self) -> bool:
        """Whether it ends as archives do, with a block of zeros, rather than just stops."""
        return self._tail == bytes(_BLOCK_BYTES)

    def read(self, size: int = -1) -> bytes:
        """Read for tarfile: no more for the headers of one entry than those can need."""
        data = self._source.read(size)
        self._digest.update(data)
        self._tail = (self._tail + data[-_BLOCK_BYTES:])[-_BLOCK_BYTES:]
        self._limits.take_bytes(len(data))
        if self._budget is not None:
            self._budget -= len(data)
            if self._budget < 0:
                raise ImageError(_TOO_LONG)
        return data

    def __iter__(self) -> Iterator[Entry]:
        """Go through the entries, regular files with their content.

        Raises:
            ImageError: If it is broken or beyond its limits.
        """
        with opened_tar(self, "r|") as found:
            for entry, content in found:
                self._budget = None
                self._limits.take_entry()
                if entry.issparse():
                    self._limits.take_bytes(entry.size)  # its holes are not in the stream
                yield entry, content
                while content is not None and content.read(CHUNK_BYTES):
                    pass
                self._budget = _HEADER_BYTES
            self._budget = None
            while self.read(CHUNK_BYTES):
                pass

    def digest(self) -> str:
        """Return the digest of all that was read, in hexadecimal digits."""
        return self._digest.hexdigest()
