"""Workers leased by threads, so that a sandbox on its way up keeps nobody waiting."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

from rock_gym.gem.packs import PackedWorker
from rock_gym.gem.worker import EnvWorker

__all__ = ["Lease", "Leases", "at_once"]

Worker = EnvWorker | PackedWorker


def at_once(seats: int) -> int:
    """Return how many may lease at once: as many as fill the sandboxes that should start at once.

    Args:
        seats: How many share a sandbox.
    """
    return seats * max(4, 2 * (os.cpu_count() or 1))


class Lease:
    """A worker on its way. Made by ``Leases.request``."""

    def __init__(self, make: Callable[[], Worker], done: Callable[[], None]) -> None:
        self._make, self._done = make, done
        self._lock = threading.Lock()
        self._abandoned = threading.Event()
        self._worker: Worker | None = None
        self._error: BaseException | None = None

    def take(self) -> Worker | None:
        """Return the worker, which is the caller's from now on, or None if it is not there yet.

        Raises:
            RockGymError: If there is none; as ``lease_worker``.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            worker, self._worker = self._worker, None
            return worker

    def abandon(self) -> None:
        """Give it up: the worker is closed, now or as soon as there is one."""
        with self._lock:
            self._abandoned.set()
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def run(self) -> None:
        """Lease. Called by a thread of ``Leases``."""
        if self._abandoned.is_set():
            return
        try:
            worker = self._make()
        except Exception as error:  # raised again where it is waited for
            self._error = error
            self._done()
            return
        with self._lock:
            self._worker = worker
        self._done()
        if self._abandoned.is_set():
            self.abandon()


class Leases:
    """Threads that lease workers. They live as long as there is work.

    Args:
        limit: How many may be at it at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[Lease] = deque()
        self._threads: set[threading.Thread] = set()

    def request(self, make: Callable[[], Worker], done: Callable[[], None]) -> Lease:
        """Have a worker made.

        Args:
            make: Makes it, in another thread.
            done: Called there once there is a worker or an error.
        """
        lease = Lease(make, done)
        with self._lock:
            self._waiting.append(lease)
            if len(self._threads) < self._limit:
                thread = threading.Thread(target=self._work, name="rock-gym-lease", daemon=True)
                self._threads.add(thread)
                thread.start()
        return lease

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads.discard(threading.current_thread())
                    return
                lease = self._waiting.popleft()
            lease.run()

    def join(self, timeout_s: float) -> None:
        """Wait for the threads, which end soon once every lease is abandoned."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._waiting.clear()
            threads = tuple(self._threads)
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
