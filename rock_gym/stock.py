"""What is behind a pool: sandboxes that are spare, lent, on their way up or on their way out.

One lock guards all counts. Callers wait in a queue and are served in order, each with all that it
asked for or nothing. Starting spares and ending used sandboxes is done by a few threads, which are
made when there is something to do. While they rest they refer to nothing: a pool that its users
have forgotten is collected.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rock_gym.backends.base import Backend
from rock_gym.errors import PoolClosed, PoolExhausted, RockGymError, SpecError
from rock_gym.memory import available_bytes, total_bytes
from rock_gym.sandbox import Sandbox
from rock_gym.spec import SandboxSpec

_log = logging.getLogger("rock_gym")

Exhaustion = Literal["wait", "fail", "grow"]

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 10.0
_START_S = 60.0

# What is left alone, for everything else on the machine, and how often memory that others may
# give back is looked at: no event tells of it.
_MARGIN = 0.03
_MEMORY_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a pool holds and has done.

    Attributes:
        leased: Sandboxes handed out and not yet given back.
        idle: Warm spares.
        starting: Sandboxes on their way up.
        ending: Used ones on their way out.
        waiting: Callers in ``acquire`` and ``acquire_many``.
        started: Sandboxes started since the pool was made.
        failed: Starts that failed.
        refused: Sandboxes that were dead, or not to the liking of ``verify``, when they were to
            be handed out.
    """

    leased: int
    idle: int
    starting: int
    ending: int
    waiting: int
    started: int
    failed: int
    refused: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How many sandboxes a stock may hold.

    Attributes:
        min_idle: Spares that are kept warm.
        max_size: Sandboxes alive at once; None for no limit.
        max_starting: Sandboxes that are started at the same time.
        reserve: Whether every sandbox's whole memory limit is set aside for it.
    """

    min_idle: int = 0
    max_size: int | None = None
    max_starting: int = 4
    reserve: bool = False

    def __post_init__(self) -> None:
        _check_count("min_idle", self.min_idle, 0)
        _check_count("max_starting", self.max_starting, 1)
        if self.max_size is not None:
            _check_count("max_size", self.max_size, 1)
            if self.max_size < self.min_idle:
                raise SpecError(f"max_size={self.max_size} is less than min_idle={self.min_idle}")


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"{name} is a whole number from {least}, not {value!r}")


@dataclass(eq=False)
class _Ticket:
    """A caller's place in the queue."""

    count: int


class Stock:
    """The sandboxes of one pool: what ``SandboxPool`` is built on.

    Attributes:
        spec: What they are.
    """

    spec: SandboxSpec

    def _set_up(self, backend: Backend, spec: SandboxSpec, limits: Limits) -> None:
        self.spec = spec
        self._backend = backend
        self._limits = limits
        self._closed = self._draining = False
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # callers wait for it
        self._wakes = threading.Semaphore(0)  # threads wait for it
        self._slots = threading.Semaphore(limits.max_starting)
        self._idle: deque[Sandbox] = deque()
        self._leased: dict[str, Sandbox] = {}
        self._used: deque[Sandbox] = deque()
        self._tickets: deque[_Ticket] = deque()
        self._threads: set[threading.Thread] = set()
        self._resting = 0
        self._filling = 0
        self._starting = self._ending = 0
        self._started = self._failed = self._refused = 0
        self._retry_s = 0.0
        self._retry_at = 0.0

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to a process that this one was forked from."""
        return self._closed or self._owner != os.getpid()

    def statistics(self) -> PoolStatistics:
        """Return what it holds and has done."""
        with self._lock:
            return PoolStatistics(
                leased=len(self._leased),
                idle=len(self._idle),
                starting=self._starting,
                ending=self._ending,
                waiting=len(self._tickets),
                started=self._started,
                failed=self._failed,
                refused=self._refused,
            )

    # Taking

    def _take(
        self, count: int, deadline: float | None, exhausted: Exhaustion
    ) -> tuple[list[Sandbox], int]:
        """Take spares, and the right to start as many as are missing, when it is one's turn.

        Args:
            count: How many sandboxes are wanted; all are given at once, or none.
            deadline: In terms of ``time.monotonic``; None waits for ever.
            exhausted: What to do when there are not so many.

        Returns:
            Spares, and how many the caller is to start itself, by ``_start_lent``.

        Raises:
            PoolExhausted: If they did not become free in time.
            PoolClosed: If the pool is closed or draining.
            SpecError: If there can never be so many.
        """
        self._check_open()
        ticket = _Ticket(count)
        with self._lock:
            self._check_open()
            self._check_possible(count, exhausted)
            if not self._tickets and (given := self._give(ticket, exhausted)) is not None:
                return given
            self._tickets.append(ticket)
            try:
                return self._wait_for_turn(ticket, deadline, exhausted)
            finally:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def _check_possible(self, count: int, exhausted: Exhaustion) -> None:
        most = self._limits.max_size
        if exhausted != "grow" and most is not None and count > most:
            raise SpecError(f"{count} sandboxes at once are more than max_size={most}")

    def _wait_for_turn(
        self, ticket: _Ticket, deadline: float | None, exhausted: Exhaustion
    ) -> tuple[list[Sandbox], int]:
        while True:
            self._check_open()
            if self._tickets[0] is ticket or exhausted == "grow":
                given = self._give(ticket, exhausted)
                if given is not None:
                    return given
            left = None if deadline is None else deadline - time.monotonic()
            if exhausted == "fail" or (left is not None and left <= 0):
                raise PoolExhausted(self._why_exhausted())
            if self._lacks_memory(ticket.count):
                left = _MEMORY_RETRY_S if left is None else min(left, _MEMORY_RETRY_S)
            self._changed.wait(left)

    def _why_exhausted(self) -> str:
        if self._has_room(1):
            return (
                "there is too little free memory for another sandbox; release some, lower "
                "memory=, or wait longer"
            )
        return (
            f"all {self._limits.max_size} sandboxes of the pool are in use; release some, raise "
            "max_size, or wait longer"
        )

    def _give(self, ticket: _Ticket, exhausted: Exhaustion) -> tuple[list[Sandbox], int] | None:
        self._bury_dead_spares(ticket.count)
        missing = max(0, ticket.count - len(self._idle))
        if missing and not (
            exhausted == "grow" or (self._has_room(missing) and not self._lacks_memory(missing))
        ):
            return None
        spares = [self._idle.popleft() for _ in range(ticket.count - missing)]
        for spare in spares:
            self._leased[spare.id] = spare
        self._starting += missing
        self._call_for_hands()
        return spares, missing

    def _bury_dead_spares(self, count: int) -> None:
        """Make sure that the first ``count`` spares live, if there are so many."""
        index = 0
        while index < min(count, len(self._idle)):
            if self._idle[index].is_alive():
                index += 1
                continue
            self._used.append(self._idle[index])
            del self._idle[index]
            self._refused += 1
            self._ending += 1

    def _alive(self) -> int:
        return len(self._leased) + len(self._idle) + self._starting + self._ending

    def _has_room(self, count: int) -> bool:
        most = self._limits.max_size
        return most is None or self._alive() + count <= most

    def _lacks_memory(self, count: int) -> bool:
        ceiling = self.spec.resources.memory_bytes or 0
        margin = int(total_bytes() * _MARGIN)
        if self._limits.reserve:
            return (self._alive() + count) * ceiling > total_bytes() - margin
        return available_bytes() < margin

    # Starting

    def _start_lent(self, deadline: float | None) -> Sandbox:
        """Start a sandbox that ``_take`` has allowed for, and have it lent.

        Raises:
            StartFailed: If it did not come up, and as ``Sandbox.from_spec`` otherwise.
            PoolClosed: If the pool was closed meanwhile.
        """
        limit = _START_S if deadline is None else max(0.001, deadline - time.monotonic())
        sandbox = self._start(limit)
        with self._lock:
            self._note_started()
            if not self._closed:
                self._leased[sandbox.id] = sandbox
                return sandbox
        sandbox.delete()
        raise PoolClosed("the pool was closed; make a new one")

    def _start(self, limit_s: float) -> Sandbox:
        try:
            if not self._slots.acquire(timeout=limit_s):
                raise PoolExhausted(
                    f"{self._limits.max_starting} other sandboxes were on their way up all the "
                    "time; wait longer, or raise max_starting"
                )
            try:
                return Sandbox.from_spec(self._backend, self.spec, limit_s)
            finally:
                self._slots.release()
        except BaseException:
            with self._lock:
                self._starting -= 1
                self._failed += 1
                self._changed.notify_all()
            raise

    def _note_started(self) -> None:
        self._starting -= 1
        self._started += 1
        self._changed.notify_all()

    # Giving back

    def _give_back(self, sandbox: Sandbox, *, refused: bool = False) -> bool:
        """Take a lent sandbox back; it is ended by another thread. False if it is not lent."""
        with self._lock:
            if self._leased.pop(sandbox.id, None) is None:
                return False
            self._refused += refused
            self._ending += 1
            self._used.append(sandbox)
            self._call_for_hands()
            if self._draining:
                self._changed.notify_all()
            return True

    # Threads

    def _call_for_hands(self) -> None:
        """Wake a thread, or make one, if there is something to do. Called under the lock."""
        todo = len(self._used) + self._missing_spares()
        if not todo or self._closed:
            return
        for _ in range(min(todo, self._resting)):
            self._wakes.release()
        if todo > self._resting and len(self._threads) < self._limits.max_starting + 2:
            thread = threading.Thread(
                target=_serve,
                args=(weakref.ref(self), self._wakes, self._threads),
                name="rock-gym-pool",
                daemon=True,
            )
            self._threads.add(thread)
            thread.start()

    def _missing_spares(self) -> int:
        """How many spares could be started now, were there room for them."""
        limits = self._limits
        missing = limits.min_idle - len(self._idle) - self._filling
        if missing <= 0 or self._draining or self._retry_at > time.monotonic():
            return 0
        return min(missing, limits.max_starting - self._filling)

    def _next_job(self) -> tuple[Callable[[], None] | None, float | None]:
        """Return what a thread should do, or how long it may rest unless it is woken."""
        with self._lock:
            if self._used:
                used = self._used.popleft()
                return (lambda: self._end(used)), None
            if self._closed:
                return None, 0.0
            if self._missing_spares() and self._has_room(1) and not self._lacks_memory(1):
                self._filling += 1
                self._starting += 1
                return self._fill, None
            self._resting += 1
            return None, self._next_look_s()

    def _rested(self) -> None:
        with self._lock:
            self._resting -= 1

    def _next_look_s(self) -> float | None:
        """Return when a thread has to look again though nobody wakes it."""
        if len(self._idle) + self._filling >= self._limits.min_idle or self._draining:
            return None
        now = time.monotonic()
        if self._retry_at > now:
            return self._retry_at - now
        return _MEMORY_RETRY_S if self._has_room(1) else None

    def _end(self, used: Sandbox) -> None:
        try:
            used.delete()
        finally:
            with self._lock:
                self._ending -= 1
                self._changed.notify_all()
                self._call_for_hands()

    def _fill(self) -> None:
        """Start a spare; if it does not come up, later ones wait, each time longer."""
        try:
            spare = self._start(_START_S)
        except RockGymError as error:
            _log.warning("a spare sandbox did not start: %s", error)
            with self._lock:
                self._filling -= 1
                self._retry_s = min(2 * self._retry_s or _FIRST_RETRY_S, _LAST_RETRY_S)
                self._retry_at = time.monotonic() + self._retry_s
            return
        with self._lock:
            self._filling -= 1
            self._retry_s = 0.0
            self._note_started()
            if self._wants_spare():
                self._idle.append(spare)
                return
        spare.delete()

    def _wants_spare(self) -> bool:
        """Whether a spare that was asked for is still wanted; the pool may have changed."""
        wanted = 0 if self._closed or self._draining else self._limits.min_idle
        return len(self._idle) < wanted

    # Ends

    def _shed_spares(self, kept: int) -> None:
        """Have the spares beyond so many ended, and all look anew. Called under the lock."""
        while len(self._idle) > kept:
            self._used.append(self._idle.pop())
            self._ending += 1
        self._call_for_hands()
        self._changed.notify_all()

    def _wait_until_unused(self, deadline: float | None) -> None:
        """Wait until all that was lent is back. Called under the lock."""
        while (self._leased or self._starting) and not self._closed:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise PoolExhausted(
                    f"{len(self._leased)} leases were not given back in time; close() ends them"
                )
            self._changed.wait(left)

    def _take_all(self) -> tuple[list[Sandbox], list[threading.Thread]]:
        """Mark it closed, and return what has to be ended and waited for. Called under the lock."""
        self._closed = True
        ours = [*self._idle, *self._leased.values(), *self._used]
        self._ending -= len(self._used)
        for holder in (self._idle, self._leased, self._used):
            holder.clear()
        self._changed.notify_all()
        threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for _ in self._threads:
            self._wakes.release()
        return ours, threads

    def _check_open(self) -> None:
        if self.closed:
            raise PoolClosed("the pool was closed; make a new one")
        if self._draining:
            raise PoolClosed("the pool is being drained and lends no more; make a new one")


def _serve(
    reference: weakref.ref[Stock], wakes: threading.Semaphore, threads: set[threading.Thread]
) -> None:
    """Do what there is to do for a pool, for as long as it is open and referred to."""
    try:
        while (stock := reference()) is not None:
            job, rest_s = stock._next_job()
            if job is not None:
                job()
                job = None
                continue
            if stock._closed:
                return
            # Outside the lock: this may be the last reference, whose end closes the pool.
            stock = None
            wakes.acquire(timeout=rest_s)
            if (stock := reference()) is not None:
                stock._rested()
    finally:
        threads.discard(threading.current_thread())
