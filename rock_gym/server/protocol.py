"""HTTP connections with deadlines, which uvicorn's own lack.

A client that connects and says nothing, sends its request drop by drop, or does not take the
answer, is cut off. What an application takes to answer is its own affair, and has no limit here.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# What uvicorn counts is the time between requests alone.
HEADERS_S = 10.0
HEADERS_BYTES = 64 << 10
# A body has to come at this rate at least, looked at now and then.
BODY_LOOK_S = 15.0
BODY_BYTES_PER_S = 16 << 10
READER_S = 60.0

_BETWEEN, _HEADERS, _BODY = range(3)


class TimedProtocol(HttpToolsProtocol):
    """A connection whose client has to go on.

    A request that comes in one piece, as most do, needs no timer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase = _HEADERS
        self._awaited = _BETWEEN
        self._received = 0
        self._looked_at = 0
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._await(_HEADERS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._await(_BETWEEN)
        self._stop_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come, and wait for what has not."""
        self._received += len(data)
        super().data_received(data)
        if self._phase == _BETWEEN and self.timeout_keep_alive_task is None and self._is_idle():
            self._phase = _HEADERS  # line ends before a request keep nothing open
        if self._phase != self._awaited:
            self._await(self._phase)
        if self._phase == _HEADERS and self._received > HEADERS_BYTES:
            self._cut()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        """Note that headers come."""
        self._phase = _HEADERS
        self._received = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that a body comes."""
        self._phase = _BODY
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that all is here."""
        self._phase = _BETWEEN
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Wait for the client to take what it was sent."""
        super().pause_writing()
        self._writing = self.loop.call_later(READER_S, self._cut)

    def resume_writing(self) -> None:
        """Go on: it has taken enough."""
        super().resume_writing()
        self._stop_writing()

    def _stop_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _await(self, phase: int) -> None:
        """Set the timer that fits what is to come."""
        self._awaited = phase
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if phase == _HEADERS:
            self._reading = self.loop.call_later(HEADERS_S, self._cut)
        elif phase == _BODY:
            self._looked_at = self._received
            self._reading = self.loop.call_later(BODY_LOOK_S, self._look)

    def _look(self) -> None:
        """Cut the connection if too little has come; not while it is we who do not read."""
        came = self._received - self._looked_at
        if came < BODY_BYTES_PER_S * BODY_LOOK_S and not self.flow.read_paused:
            self._cut()
        else:
            self._await(_BODY)

    def _cut(self) -> None:
        self.transport.abort()
