"""A pool against a model of it: whatever is done in whatever order, its promises hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rock_gym import SandboxPool, stock
from rock_gym.errors import PoolClosed, PoolExhausted, SpecError, StartFailed
from tests.contract.support import eventually
from tests.fakes import FakeBackend

SIZES = st.integers(1, 5)
PICK = st.integers(0, 1000)


class PoolMachine(RuleBasedStateMachine):
    """The model: which sandboxes are held, which were ever lent, and the sizes asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.backend: Any = FakeBackend()
        self.held: list[Any] = []
        self.ever: set[str] = set()
        self.open = True
        self.patched = pytest.MonkeyPatch()

    @initialize(max_size=SIZES, spares=st.integers(0, 2))
    def make(self, max_size: int, spares: int) -> None:
        self.patched.setattr(stock, "_LAST_RETRY_S", 0.2)
        self.max_size, self.min_idle = max_size, min(spares, max_size)
        self.pool = SandboxPool(
            backend=self.backend, min_idle=self.min_idle, max_size=max_size, max_starting=2
        )

    def take(self, count: int, **how: Any) -> None:
        try:
            sandboxes = self.pool.acquire_many(count, **how)
        except StartFailed:
            return  # a failure that was asked for; what came up beside it is given back
        assert len(sandboxes) == count
        for sandbox in sandboxes:
            assert sandbox.is_alive()
            assert sandbox.id not in self.ever, "lent twice"
            self.ever.add(sandbox.id)
        self.held += sandboxes

    @precondition(lambda self: self.open)
    @rule(count=SIZES)
    def acquire(self, count: int) -> None:
        if count > self.max_size:
            with pytest.raises(SpecError):
                self.pool.acquire_many(count)
        elif len(self.held) + count <= self.max_size:
            self.take(count, timeout=20)
        else:
            with pytest.raises(PoolExhausted):
                self.pool.acquire_many(count, exhausted="fail")
            with pytest.raises(PoolExhausted):
                self.pool.acquire_many(count, timeout=0)

    @precondition(lambda self: self.open)
    @rule(count=SIZES)
    def grow(self, count: int) -> None:
        self.take(count, exhausted="grow")

    # Which start fails is a race, and so is who holds what afterwards: no rule's being there may
    # depend on it.

    @rule(pick=PICK, twice=st.booleans())
    def release(self, pick: int, twice: bool) -> None:
        if not self.held:
            return
        sandbox = self.held.pop(pick % len(self.held))
        self.pool.release(sandbox)
        if twice:
            self.pool.release(sandbox)
        assert sandbox.state == "deleted"

    @rule(pick=PICK)
    def a_sandbox_dies(self, pick: int) -> None:
        """A spare, one that is held and will go back as any other, or one that is gone."""
        containers = self.backend.containers
        if containers:
            containers[pick % len(containers)].alive = False

    @rule(count=st.integers(1, 2))
    def starts_will_fail(self, count: int) -> None:
        self.backend.failures = count

    @precondition(lambda self: self.open)
    @rule(max_size=SIZES, spares=st.integers(0, 2))
    def resize(self, max_size: int, spares: int) -> None:
        self.max_size, self.min_idle = max_size, min(spares, max_size)
        self.pool.resize(min_idle=self.min_idle, max_size=max_size)

    @precondition(lambda self: self.open)
    @rule(wish=st.integers(0, 5))
    def close(self, wish: int) -> None:
        if wish:
            return  # most lives should be long
        self.pool.close()
        self.open, self.held = False, []
        with pytest.raises(PoolClosed):
            self.pool.acquire()

    @invariant()
    def what_it_says_is_true(self) -> None:
        if not hasattr(self, "pool"):
            return
        now = self.pool.statistics()
        assert now.leased == len(self.held)
        assert now.waiting == 0
        alive = sum(container.alive for container in self.backend.containers)
        assert self.open or alive == 0
        assert self.backend.most_at_once <= 2

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        try:
            if self.open:
                self.backend.failures = 0
                assert eventually(self.is_settled), self.pool.statistics()
        finally:
            self.patched.undo()
            self.pool.close()
        assert not [container for container in self.backend.containers if container.alive]
        now = self.pool.statistics()
        assert (now.leased, now.idle, now.starting, now.ending) == (0, 0, 0, 0)

    def is_settled(self) -> bool:
        """As many spares as are wanted and fit, and nothing on its way.

        One that was there before the pool grew may stay.
        """
        now = self.pool.statistics()
        room = max(0, self.max_size - len(self.held))
        enough = min(self.min_idle, room) <= now.idle <= self.min_idle
        return enough and now.starting == now.ending == 0


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, database=None)
