"""Environments heard by the event loop: an answer costs no thread and no wait of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

__all__ = ["LoopListener"]


class LoopListener:
    """Listens for players, in the place of a vector's poller. All but ``post`` is the loop's own.

    A descriptor must be ignored before the loop runs on once it was closed: its number may be
    another's then.

    Attributes:
        loop: The event loop.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._heard: dict[int, Callable[[], None]] = {}
        self._watched: dict[int, int] = {}

    def add(self, number: int, heard: Callable[[], None]) -> None:
        """Have a function called when an environment has something to say."""
        self._heard[number] = heard

    def remove(self, number: int) -> None:
        """Forget an environment."""
        self.ignore(number)
        self._heard.pop(number, None)

    def watch(self, number: int, fd: int) -> None:
        """See ``Listener.watch``."""
        self.ignore(number)
        self._watched[number] = fd
        self.loop.add_reader(fd, self._heard[number])

    def ignore(self, number: int) -> None:
        """See ``Listener.ignore``."""
        fd = self._watched.pop(number, None)
        if fd is not None:
            self.loop.remove_reader(fd)

    def post(self, number: int) -> None:
        """See ``Listener.post``."""
        # A lease may come after the loop has ended, when nobody is there to be told.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._tell, number)

    def _tell(self, number: int) -> None:
        heard = self._heard.get(number)
        if heard is not None:
            heard()
