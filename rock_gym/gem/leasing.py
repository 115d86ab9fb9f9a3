"""Which guest serves an environment: many share one where actions are only parsed.

Each pool has its own set of guests. One that served environments which only parse stays warm when
the last of them is closed, so that making the next one costs a fork and not an import of GEM.
"""

from __future__ import annotations

import copy
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from rock_gym.errors import PoolClosed, PoolExhausted, SandboxLost
from rock_gym.gem.guests import Guest
from rock_gym.gem.interpreter import GuestPython

if TYPE_CHECKING:
    from rock_gym.sandbox import Sandbox

__all__ = ["Pool", "Seat", "lease_seat", "left", "take_seat"]

T = TypeVar("T")


class Pool(Protocol):
    """What is asked of a pool of sandboxes."""

    @property
    def backend(self) -> str:
        """The name of the backend that it starts them on."""

    def acquire(self, timeout: float | None = 60.0) -> Sandbox:
        """Lease a sandbox that nobody has used before."""

    def on_close(self, callback: Callable[[], None]) -> None:
        """Have a callback called when the pool is closed, before its sandboxes end."""


@dataclass(eq=False)
class _Entry:
    """A guest, perhaps still on its way up, and how many seats in it are taken.

    Attributes:
        capacity: How many environments it may serve. A guest of capacity 1 is used once.
        taken: Seats taken, by those who wait for it too.
        settled: Set once there is a guest or an error.
    """

    python: GuestPython
    capacity: int
    taken: int = 1
    guest: Guest | None = None
    error: BaseException | None = None
    settled: threading.Event = field(default_factory=threading.Event)

    def fits(self, python: GuestPython, capacity: int) -> bool:
        if (self.python, self.capacity) != (python, capacity) or self.taken >= capacity:
            return False
        return self.guest is None or self.guest.is_alive()


class _Count:
    """A number that threads change: how many have not left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 1

    def add(self, change: int) -> int:
        with self._lock:
            self._number += change
            return self._number


class Seat:
    """The right to have one environment in a guest.

    Attributes:
        guest: The guest.
        alone: Whether nobody else uses it.
        fresh: Whether it was started for this one.
    """

    def __init__(self, guests: _Guests, entry: _Entry, guest: Guest, fresh: bool) -> None:
        self.fresh = fresh
        self.guest = guest
        self.alone = entry.capacity == 1
        self._guests = guests
        self._entry: _Entry | None = entry
        self._sharers = _Count()

    def share(self) -> Seat:
        """Return the same seat for a second process. It is free when both have left it."""
        self._sharers.add(1)
        shared = copy.copy(self)
        shared.fresh = False
        return shared

    def leave(self) -> None:
        """Give it up. Twice is fine."""
        entry, self._entry = self._entry, None
        if entry is not None and self._sharers.add(-1) == 0:
            self._guests.leave(entry)


class _Guests:
    """The guests in the sandboxes of one pool."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self._closed = False

    def take(self, pool: Pool, python: GuestPython, capacity: int, deadline: float | None) -> Seat:
        while True:
            entry, is_new = self._reserve(python, capacity)
            if is_new:
                self._start(entry, pool, deadline)
            elif not entry.settled.wait(left(deadline)):
                self.leave(entry)
                raise PoolExhausted("the GEM process that others wait for too was not up in time")
            if entry.guest is not None:
                return Seat(self, entry, entry.guest, is_new)
            error = entry.error
            if isinstance(error, Exception) and not isinstance(error, TimeoutError):
                # One failure for all who waited, but an exception for each.
                raise copy.copy(error) from error
            # Who started it was interrupted, or had less time than we have.

    def _reserve(self, python: GuestPython, capacity: int) -> tuple[_Entry, bool]:
        unused: list[_Entry] = []
        try:
            with self._lock:
                if self._closed:
                    raise PoolClosed("the pool was closed; make a new one")
                for entry in self._entries:
                    if entry.fits(python, capacity):
                        entry.taken += 1
                        return entry, False
                # They hold sandboxes of a pool that may be bounded, for nobody.
                unused = [entry for entry in self._entries if entry.taken == 0]
                self._entries = [entry for entry in self._entries if entry.taken > 0]
                entry = _Entry(python, capacity)
                self._entries.append(entry)
                return entry, True
        finally:
            _end(unused)

    def _start(self, entry: _Entry, pool: Pool, deadline: float | None) -> None:
        try:
            guest = _start_guest(pool, entry.python, deadline)
        except BaseException as error:
            with self._lock:
                entry.error = error
                self._remove(entry)
            entry.settled.set()
            raise
        with self._lock:
            entry.guest = guest
            closed = self._closed
        entry.settled.set()
        if closed:  # between the pool's lease and now; it has ended the sandbox
            guest.close()

    def leave(self, entry: _Entry) -> None:
        with self._lock:
            entry.taken -= 1
            guest = entry.guest
            if entry.taken or guest is None:
                return
            if not self._closed and entry.capacity > 1 and guest.is_alive():
                spares = (other for other in self._entries if other is not entry)
                if not any(other.taken == 0 for other in spares):
                    return
            self._remove(entry)
        _end([entry])

    def _remove(self, entry: _Entry) -> None:
        if entry in self._entries:
            self._entries.remove(entry)

    def close(self) -> None:
        """End all guests. The pool ends the sandboxes."""
        with self._lock:
            self._closed = True
            entries, self._entries = self._entries, []
        for entry in entries:
            if entry.guest is not None:
                entry.guest.close()


def _start_guest(pool: Pool, python: GuestPython, deadline: float | None) -> Guest:
    sandbox = pool.acquire(left(deadline))
    try:
        return Guest(sandbox, python, left(deadline))
    except BaseException:
        sandbox.release()
        raise


def _end(entries: list[_Entry]) -> None:
    for entry in entries:
        if entry.guest is not None:
            entry.guest.close()
            entry.guest.sandbox.release()


def left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline of ``time.monotonic``, at least 0."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


# The guests of each pool. The pool keeps them, by its callback; here they are only found.
_known: weakref.WeakKeyDictionary[Pool, weakref.ref[_Guests]] = weakref.WeakKeyDictionary()
_known_lock = threading.Lock()


def take_seat(pool: Pool, python: GuestPython, capacity: int, timeout_s: float | None) -> Seat:
    """Find or start a guest with a free seat. From any thread.

    Args:
        pool: Where sandboxes come from.
        python: What the guest runs on.
        capacity: How many environments may share it.
        timeout_s: Seconds to wait; None for no limit.

    Raises:
        PoolExhausted: If no sandbox, or not the guest in it, was there in time.
        PoolClosed: If the pool was closed.
        StartFailed: If a sandbox or the guest did not come up.
        EnvUnavailable: If GEM cannot be imported in the sandbox.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    return _guests_of(pool).take(pool, python, capacity, deadline)


def lease_seat(
    pool: Pool,
    python: GuestPython,
    capacity: int,
    timeout_s: float | None,
    occupy: Callable[[Seat], T],
) -> T:
    """Take a seat and return what ``occupy`` puts there; raises as both. From any thread.

    Args:
        pool: As for ``take_seat``, as are the next three.
        python: What the guest runs on.
        capacity: How many may share it.
        timeout_s: Seconds until there must be a seat.
        occupy: Returns who keeps the seat from now on. If it raises, the seat is given up.

    Raises:
        SandboxLost: If the sandbox died though its guest was started for this seat.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        seat = take_seat(pool, python, capacity, left(deadline))
        try:
            return occupy(seat)
        except SandboxLost:
            seat.leave()
            # A guest that was kept warm may have been killed since.
            if seat.fresh:
                raise
        except BaseException:
            seat.leave()
            raise


def _guests_of(pool: Pool) -> _Guests:
    with _known_lock:
        reference = _known.get(pool)
        guests = reference() if reference is not None else None
        if guests is None:
            guests = _Guests()
            pool.on_close(guests.close)
            _known[pool] = weakref.ref(guests)
        return guests


def _forget_all() -> None:
    global _known_lock
    _known_lock = threading.Lock()
    _known.clear()


os.register_at_fork(after_in_child=_forget_all)
