"""One wait for many environments, whether they answer on sockets or from threads."""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
from collections import deque
from typing import Protocol

__all__ = ["Listener", "Poller"]


class Source(Protocol):
    """What several environments answer on."""

    def fileno(self) -> int:
        """The descriptor to listen to."""

    def pump(self) -> list[int]:
        """Take in what has come, and return whom that may concern."""

    def flush(self) -> None:
        """Send what was held back to go out together."""


class Listener(Protocol):
    """Has environments heard, known by their numbers, when they have something to say."""

    def watch(self, number: int, fd: int) -> None:
        """Listen to an environment on this descriptor, and no longer on the one before."""

    def ignore(self, number: int) -> None:
        """Stop listening to an environment's descriptor, which may have been closed already."""

    def post(self, number: int) -> None:
        """Have an environment heard. From any thread."""


class Poller:
    """Tells which environments have something to say, by their numbers.

    All is for the vector environment's own thread, but for ``post``.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._event, select.EPOLLIN)
        self._posted: deque[int] = deque()
        self._owners: dict[int, int] = {}
        self._watched: dict[int, int] = {}
        self._sources: dict[int, Source] = {}
        # A thread may post late, when the event's number could be another file's.
        self._lock = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """A descriptor that is readable when ``wait`` has something to return; -1 once closed."""
        return -1 if self._closed else self._epoll.fileno()

    def watch(self, number: int, fd: int) -> None:
        """Listen to an environment on this descriptor, and no longer on the one before."""
        self.ignore(number)
        self._owners[fd], self._watched[number] = number, fd
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except FileExistsError:
            self._epoll.modify(fd, select.EPOLLIN)

    def ignore(self, number: int) -> None:
        """Stop listening to an environment's descriptor."""
        fd = self._watched.pop(number, None)
        # Closed descriptors are gone of themselves, and their numbers may be others' by now.
        if fd is not None and self._owners.get(fd) == number:
            del self._owners[fd]
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def watch_source(self, source: Source) -> None:
        """Listen to what several environments answer on."""
        self.forget_source(source)
        fd = source.fileno()
        self._sources[fd] = source
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except FileExistsError:
            self._epoll.modify(fd, select.EPOLLIN)

    def forget_source(self, source: Source) -> None:
        """Stop to listen to it."""
        for fd in [fd for fd, known in self._sources.items() if known is source]:
            del self._sources[fd]
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def flush(self) -> None:
        """Have all sources send what they hold back."""
        for source in tuple(self._sources.values()):
            source.flush()

    def post(self, number: int) -> None:
        """Have ``wait`` return a number. From any thread."""
        self._posted.append(number)
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._event, 1)

    def wait_for(self, number: int, timeout_s: float) -> None:
        """Wait until one environment may have something to say, if it has a descriptor here."""
        fd = self._watched.get(number)
        if fd is not None:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(timeout_s * 1000)

    def wait(self, timeout_s: float | None) -> list[int]:
        """Wait for environments that may have something to say.

        Returns:
            Their numbers, perhaps none of them before the time is up.
        """
        if timeout_s is not None:
            # Rounded up to what epoll counts in, or the last millisecond would be spent spinning.
            timeout_s = math.ceil(max(timeout_s, 0.0) * 1000) / 1000
        if self._sources:
            self.flush()
        owners, sources = self._owners, self._sources
        numbers: list[int] = []
        for fd, _ in self._epoll.poll(timeout_s):
            if fd in owners:
                numbers.append(owners[fd])
            elif fd in sources:
                numbers += sources[fd].pump()
            elif fd == self._event:
                os.eventfd_read(self._event)
                while self._posted:
                    numbers.append(self._posted.popleft())
        return numbers

    def close(self) -> None:
        """Close its own descriptors. Twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._epoll.close()
                os.close(self._event)
