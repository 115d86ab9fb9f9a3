"""Ending sandboxes that nobody uses any more: one thread for all of a process, woken by time alone.

A use costs nothing here: it leaves its time with the sandbox, which is looked at when the deadline
would be reached.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Protocol


class Idling(Protocol):
    """What can be idle."""

    def _stop_if_idle(self) -> float | None:
        """Stop if the deadline is reached; returns the next one, or None when there is none."""


class IdleTimer:
    """Asks each thing it watches at its deadline. The thread lives while it watches anything."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: dict[weakref.ref[Idling], float] = {}
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._forget_all)

    def watch(self, thing: Idling, deadline: float) -> None:
        """Ask it at its deadline, in terms of ``time.monotonic``; replaces an earlier one."""
        with self._changed:
            self._deadlines[weakref.ref(thing, self._forget_ref)] = deadline
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rock-gym-idle", daemon=True)
                self._thread.start()
            self._changed.notify()

    def forget(self, thing: Idling) -> None:
        """Do not ask it any more."""
        self._forget_ref(weakref.ref(thing))

    def _forget_ref(self, ref: weakref.ref[Idling]) -> None:
        # Also called by the garbage collector, in whatever thread, also in one that holds the
        # lock: taking an entry out needs none, and the thread finds out at its next deadline.
        if self._deadlines.pop(ref, None) is not None and self._changed.acquire(blocking=False):
            try:
                self._changed.notify()
            finally:
                self._changed.release()

    def _forget_all(self) -> None:
        # A forked child has neither the thread nor the sandboxes.
        self._changed = threading.Condition()
        self._deadlines = {}
        self._thread = None

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._deadlines:
                    self._thread = None
                    return
                ref, deadline = min(tuple(self._deadlines.items()), key=lambda item: item[1])
                left = deadline - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                del self._deadlines[ref]
            thing = ref()
            following = thing._stop_if_idle() if thing is not None else None
            if thing is not None and following is not None:
                self.watch(thing, following)
            del thing


idle_timer = IdleTimer()
