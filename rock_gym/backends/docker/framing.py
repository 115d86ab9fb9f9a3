"""How an engine carries the outputs of a container: in pieces with 8 bytes before each.

They are the piece's kind, three zeros and its length.
"""

from __future__ import annotations

_HEADER_BYTES = 8
_STDOUT = 1
_STDERR = 2
_KEPT_ERROR_BYTES = 4096


class Pieces:
    """Undoes it.

    Args:
        early: The stream's first bytes, if some are there already.

    Attributes:
        error_text: The last of what came over the standard error.
    """

    def __init__(self, early: bytes = b"") -> None:
        self.error_text = b""
        self._raw = bytearray(early)

    def add(self, data: bytes) -> bytes:
        """Take what was read next, and return what of the standard output is now there."""
        size = int.from_bytes(data[4:8], "big")
        if not self._raw and data[0] == _STDOUT and len(data) == size + _HEADER_BYTES:
            return data[_HEADER_BYTES:]  # mostly it is one piece, not worth more copies
        self._raw += data
        raw, at = self._raw, 0
        found = []
        while len(raw) - at >= _HEADER_BYTES:
            end = at + _HEADER_BYTES + int.from_bytes(raw[at + 4 : at + 8], "big")
            if len(raw) < end:
                break
            payload = bytes(raw[at + _HEADER_BYTES : end])
            if raw[at] == _STDERR:
                self.error_text = (self.error_text + payload)[-_KEPT_ERROR_BYTES:]
            else:
                found.append(payload)
            at = end
        del raw[:at]
        return b"".join(found)
