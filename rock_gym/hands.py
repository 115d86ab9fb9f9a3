"""Threads that do what there is to do for a pool, and rest in between.

They are made when there is something to do. While they rest they do not refer to the pool: one that
its users have forgotten is collected.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

Job = Callable[[], None]


class Owner(Protocol):
    """Whom threads work for. It has a lock of its own."""

    _closed: bool

    def _next_job(self) -> tuple[Job | None, float | None]:
        """Return what a thread should do, or how long it may rest, as it is counted to do now."""

    def _rested(self) -> None:
        """Count that a thread rests no longer."""


class Hands:
    """The threads of one owner. It calls under its lock.

    Args:
        owner: Whom they work for, until it is closed or nobody else refers to it.
        most: How many there may be.

    Attributes:
        resting: How many rest, which the owner counts.
    """

    def __init__(self, owner: Owner, most: int) -> None:
        self.resting = 0
        self._owner = weakref.ref(owner)
        self._most = most
        # Threads wait for what is in it. Cheaper than a semaphore for who wakes them, whom a user
        # waits for.
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._threads: set[threading.Thread] = set()

    def call(self, todo: int) -> None:
        """Wake threads, or make one, for so many jobs."""
        for _ in range(min(todo, self.resting)):
            self._wakes.put(None)
        if todo > self.resting and len(self._threads) < self._most:
            thread = threading.Thread(target=self._serve, name="rock-gym-pool", daemon=True)
            self._threads.add(thread)
            thread.start()

    def dismiss(self) -> list[threading.Thread]:
        """Wake all, as the owner is closed, and return those that can be waited for."""
        threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for _ in self._threads:
            self._wakes.put(None)
        return threads

    def _serve(self) -> None:
        try:
            while (owner := self._owner()) is not None:
                job, rest_s = owner._next_job()
                if job is not None:
                    job()
                    job = None
                    continue
                if owner._closed:
                    return
                # Outside the lock: this may be the last reference, whose end closes the owner.
                owner = None
                with contextlib.suppress(Empty):
                    self._wakes.get(timeout=rest_s)
                if (owner := self._owner()) is not None:
                    owner._rested()
        finally:
            self._threads.discard(threading.current_thread())
