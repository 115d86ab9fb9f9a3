"""Keeping the output of a command: its beginning and its end, in bounded memory."""

from __future__ import annotations

from collections import deque

KEPT_BYTES = 512 * 1024


class Output:
    """Collects bytes, and keeps the first and the last ``kept_bytes`` of them.

    Args:
        kept_bytes: How much is kept at each end.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._dropped_bytes = 0

    @property
    def truncated(self) -> bool:
        """Whether anything was left out."""
        return self._dropped_bytes > 0 or self._tail_bytes > self._kept_bytes

    def add(self, data: bytes) -> None:
        """Append a chunk."""
        room = self._kept_bytes - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail and self._tail_bytes - len(self._tail[0]) >= self._kept_bytes:
            dropped = len(self._tail.popleft())
            self._tail_bytes -= dropped
            self._dropped_bytes += dropped

    def text(self) -> str:
        r"""Return what was kept. Bytes that are not UTF-8 become ``\xNN``."""
        if not self._tail:
            return self._head.decode("utf-8", "backslashreplace")
        tail = b"".join(self._tail)
        excess = max(0, len(tail) - self._kept_bytes)
        dropped = self._dropped_bytes + excess
        head = bytes(self._head)
        if not dropped:
            return (head + tail).decode("utf-8", "backslashreplace")
        return (
            head.decode("utf-8", "backslashreplace")
            + f"\n[... {dropped} bytes left out ...]\n"
            + tail[excess:].decode("utf-8", "backslashreplace")
        )
