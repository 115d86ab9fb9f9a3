"""What is behind a pool: sandboxes that are spare, lent, on their way up or on their way out.

One lock guards all counts. Callers wait in a queue and are served in order, each with all that it
asked for or nothing. Starting spares and ending used sandboxes is done by a few threads.
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
from itertools import takewhile

from rock_gym.backends.base import Backend
from rock_gym.errors import PoolClosed, PoolExhausted, RockGymError, SpecError, StartFailed
from rock_gym.hands import Hands
from rock_gym.limits import Exhaustion, Limits, PoolStatistics
from rock_gym.memory import available_bytes, total_bytes
from rock_gym.sandbox import Sandbox
from rock_gym.spec import SandboxSpec

_log = logging.getLogger("rock_gym")

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 10.0
_START_S = 60.0

# What is left alone, for everything else on the machine, and how often memory that others may
# give back is looked at: no event tells of it.
_MARGIN = 0.03
_MEMORY_RETRY_S = 0.5

# What a sandbox takes that has done nothing yet, for those that are on their way up.
_FOOTPRINT_BYTES = 8 << 20

# Pools share the machine's memory: what one promises, no other may promise as well.
_promising = threading.Lock()
_promisers: weakref.WeakSet[Stock] = weakref.WeakSet()


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
        self._slots = threading.Semaphore(limits.max_starting)
        self._idle: deque[Sandbox] = deque()
        self._leased: dict[str, Sandbox] = {}
        self._used: deque[Sandbox] = deque()
        self._tickets: deque[_Ticket] = deque()
        self._hands = Hands(self, limits.max_starting + 2)
        self._filling = 0
        self._starting = self._ending = 0
        self._started = self._failed = self._refused = 0
        self._retry_s = 0.0
        self._retry_at = 0.0
        if limits.reserve:
            with _promising:
                _promisers.add(self)

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
            if (left is not None and left <= 0) or (
                exhausted == "fail" and self._is_in_use(ticket)
            ):
                raise PoolExhausted(self._why_exhausted(ticket.count, exhausted))
            if self._lacks_memory(ticket.count):
                left = _MEMORY_RETRY_S if left is None else min(left, _MEMORY_RETRY_S)
            self._changed.wait(left)

    def _is_in_use(self, ticket: _Ticket) -> bool:
        """Whether only others' giving back could help: not what is on its way up or out."""
        ahead = sum(other.count for other in takewhile(lambda it: it is not ticket, self._tickets))
        if self._lent_beyond(ahead + ticket.count):
            return True
        return not self._ending and self._lacks_memory(ticket.count)

    def _lent_beyond(self, count: int) -> bool:
        """Whether more than max_size would be lent with so many more."""
        most = self._limits.max_size
        return most is not None and (
            len(self._leased) + self._starting - self._filling + count > most
        )

    def _why_exhausted(self, count: int, exhausted: Exhaustion) -> str:
        if exhausted == "grow" or self._has_room(count):
            return (
                "there is too little free memory for another sandbox; release some, lower "
                "memory=, or wait longer"
            )
        return (
            f"all {self._limits.max_size} sandboxes of the pool are in use; release some, raise "
            "max_size, or wait longer"
        )

    def _give(self, ticket: _Ticket, exhausted: Exhaustion) -> tuple[list[Sandbox], int] | None:
        # After growing or resizing there may be spares though all that may be lent are lent.
        if exhausted != "grow" and self._lent_beyond(ticket.count):
            return None
        self._bury_dead_spares(ticket.count)
        missing = max(0, ticket.count - len(self._idle))
        if missing and not self._claim(missing, grow=exhausted == "grow"):
            return None
        spares = [self._idle.popleft() for _ in range(ticket.count - missing)]
        for spare in spares:
            self._leased[spare.id] = spare
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
            # Now, since what may stop the caller from getting one is that this one has not ended.
            self._call_for_hands()

    def _alive(self) -> int:
        return len(self._leased) + len(self._idle) + self._starting + self._ending

    def _has_room(self, count: int) -> bool:
        most = self._limits.max_size
        return most is None or self._alive() + count <= most

    def _claim(self, count: int, *, grow: bool = False) -> bool:
        """Count so many as starting, if there is room for them. Called under the lock."""
        if not grow and not self._has_room(count):
            return False
        with _promising:
            if self._lacks_memory(count):
                return False
            self._starting += count
        return True

    def _lacks_memory(self, count: int) -> bool:
        total, free = total_bytes(), available_bytes()
        margin = int(total * _MARGIN)
        rising = count + self._starting
        if not self._limits.reserve:
            return free - rising * _FOOTPRINT_BYTES < margin
        ceiling = self.spec.resources.memory_bytes or 0
        promised = sum(it._alive() * (it.spec.resources.memory_bytes or 0) for it in _promisers)
        return promised + count * ceiling > total - margin or rising * ceiling > free - margin

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
                self._call_for_hands()
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
            except OSError as error:
                raise StartFailed(
                    f"the sandbox did not start: {error}; each takes descriptors of this process, "
                    "so raise `ulimit -n` if they ran out"
                ) from error
            finally:
                self._slots.release()
        except BaseException:
            with self._lock:
                self._starting -= 1
                self._failed += 1
                self._changed.notify_all()
                self._call_for_hands()  # it leaves room, which a spare may have lacked
            raise

    def _note_started(self) -> None:
        self._starting -= 1
        self._started += 1
        self._retry_s = self._retry_at = 0.0  # starts work again, whoever found it out
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
        if todo and not self._closed:
            self._hands.call(todo)

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
            if self._missing_spares() and self._claim(1):
                self._filling += 1
                return self._fill, None
            self._hands.resting += 1
            return None, self._next_look_s()

    def _rested(self) -> None:
        with self._lock:
            self._hands.resting -= 1

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
        return ours, self._hands.dismiss()

    def _renew_locks(self) -> None:
        """Forget who held them: in a forked child, threads that do not exist there."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def _check_open(self) -> None:
        if self.closed:
            raise PoolClosed("the pool was closed; make a new one")
        if self._draining:
            raise PoolClosed("the pool is being drained and lends no more; make a new one")


def _renew_promising() -> None:
    global _promising
    _promising = threading.Lock()


os.register_at_fork(after_in_child=_renew_promising)
