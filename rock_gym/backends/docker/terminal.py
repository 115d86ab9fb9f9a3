"""A process on a pseudo-terminal of a container, whose other end its first process holds."""

from __future__ import annotations

import contextlib
import os

from rock_gym.backends.docker import protocol
from rock_gym.backends.docker.link import Link
from rock_gym.backends.docker.process import AgentProcess
from rock_gym.errors import SandboxClosed, SandboxLost


class AgentTerminal(AgentProcess):
    """See ``Terminal``. The end of its output and that of its process come in either order."""

    def __init__(self, link: Link) -> None:
        self._event: int | None = None
        super().__init__(link)

    def take(self, kind: int, payload: bytes) -> None:
        """Note a frame; see ``Handle.take``."""
        super().take(kind, payload)
        if kind in (protocol.OUTPUT, protocol.END):
            self.lose()

    def lose(self) -> None:
        """Note that there is something to read, if only the end; see ``Handle.lose``."""
        if self._event is not None:
            os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        """The descriptor to poll; -1 once closed. From now on a thread reads for the container."""
        with self.link.lock:
            if self._closed:
                return -1
            if self._event is None:
                self._event = os.eventfd(int(self._is_readable()), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.link.keep_reading()
        return self._event

    def _is_readable(self) -> bool:
        return bool(self._chunks) or self._ended or self._closed or self.is_gone

    def read(self, count: int = 65536) -> bytes:
        """Wait for output; see ``Terminal.read``."""
        self.link.wait(self.turn, self._is_readable, None)
        with self.link.lock:
            data = b"".join(piece for _, piece in self._chunks)
            data, rest = data[:count], data[count:]
            self._chunks = [(0, rest)] if rest else []
            if self._event is not None and not self._is_readable():
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._event)
        if data:
            self._grant(len(data))
        return data

    def write(self, data: bytes) -> None:
        """Type; see ``Terminal.write``."""
        try:
            self.send(data)
        except (SandboxLost, SandboxClosed) as error:
            raise BrokenPipeError(error.message) from error

    def resize(self, rows: int, columns: int) -> None:
        """Change its size; see ``Terminal.resize``."""
        with contextlib.suppress(SandboxLost, SandboxClosed):
            self._send(protocol.RESIZE, protocol.WORDS.pack(rows, columns))

    def close(self) -> None:
        """Hang up; see ``Terminal.close``."""
        # In a forked child another thread may hold the lock for ever.
        with self.link.lock if self.link.is_ours() else contextlib.nullcontext():
            self._closed = True
            event, self._event = self._event, None
            if self.link.is_ours():
                self.turn.notify_all()
        # Its end inside holds a terminal, whatever has ended.
        self.link.forget(self.id, at_once=True)
        if event is not None:
            os.close(event)
