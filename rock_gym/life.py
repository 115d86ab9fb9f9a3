"""The life of a sandbox: its state machine, who uses it, and why something in it went wrong.

    pending -> running -> stopped -> deleted
                  ^----------'  restart

Every use passes through ``Life.using``: it is refused after the end, keeps the idle deadline off,
and gives errors the sandbox's id and the limit that may be behind them.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from rock_gym.backends.base import Container, LimitHits
from rock_gym.errors import (
    CommandTimeout,
    FileError,
    RockGymError,
    SandboxClosed,
    SandboxLost,
)
from rock_gym.shell import CommandResult, ShellResult
from rock_gym.status import SandboxEvent, Transition

if TYPE_CHECKING:
    from types import TracebackType

_KEPT_EVENTS = 100
_FILE_CAUSES = {"ENOSPC": "disk", "EDQUOT": "disk", "EAGAIN": "pids"}

_Result = TypeVar("_Result", CommandResult, ShellResult)


class Life:
    """The state of one sandbox. All methods may be called from any thread.

    Attributes:
        history: Its changes of state.
        last_use_s: When it was last used, in terms of ``time.monotonic``.
    """

    def __init__(self, container: Container) -> None:
        self.container = container
        self.last_use_s = time.monotonic()
        self.history = [Transition("pending", time.time(), "asked for")]
        self._lock = threading.Lock()
        self._lost = False
        self._uses = 0
        self._run = 0
        self._hits = LimitHits()
        self._events: deque[SandboxEvent] = deque(maxlen=_KEPT_EVENTS)

    @property
    def state(self) -> str:
        """The state it is in, as far as was noticed."""
        return self.history[-1].state

    def enter(self, state: str, reason: str, *, lost: bool = False) -> bool:
        """Change the state. Returns whether it is in that state now.

        A deleted sandbox stays so, and it comes to run only from pending.

        Args:
            state: The new state.
            reason: Why.
            lost: Whether it came by itself, so that its users have lost it.
        """
        with self._lock:
            return self._enter(state, reason, lost)

    def _enter(self, state: str, reason: str, lost: bool = False) -> bool:
        refused = self.state == "deleted" or (state == "running" and self.state != "pending")
        if self.state != state and not refused:
            self.history.append(Transition(state, time.time(), reason))
            self._lost = lost
            self._run += state == "running"
        return self.state == state

    def stop_if_idle(self, limit_s: float) -> float | None:
        """Enter stopped if nobody has used it for so long.

        Returns:
            When to ask again, in terms of ``time.monotonic``; None if it does not run any more.
        """
        with self._lock:
            if self.state != "running":
                return None
            now = time.monotonic()
            due = now + limit_s if self._uses else self.last_use_s + limit_s
            if due > now:
                return due
            self._enter("stopped", f"nobody used it for {limit_s:g} s")
            return None

    # Uses

    def using(self) -> Use:
        """Make a context in which the sandbox is used."""
        return Use(self)

    def begin_use(self) -> int:
        """Note that a use begins; returns the number of the run it happens in."""
        with self._lock:
            self.check_running()
            self._uses += 1
            return self._run

    def end_use(self) -> None:
        """Note that a use has ended."""
        with self._lock:
            self._uses -= 1
            self.last_use_s = time.monotonic()

    def check_running(self) -> None:
        """Refuse a use when it does not run.

        Raises:
            SandboxClosed: If it was stopped or deleted, or is being restarted.
            SandboxLost: If it died.
        """
        last = self.history[-1]
        if last.state == "running":
            return
        sandbox_id = self.container.id
        if self._lost:
            raise SandboxLost(f"the sandbox is gone: {last.reason}", sandbox_id=sandbox_id)
        remedy = {
            "deleted": "start or acquire another one",
            "stopped": "restart() it, or start or acquire another one",
            "pending": "use it when restart() has returned",
        }[last.state]
        raise SandboxClosed(
            f"the sandbox is {last.state} ({last.reason}); {remedy}", sandbox_id=sandbox_id
        )

    def is_run(self, run: int) -> bool:
        """Whether that run goes on."""
        return self._run == run and self.state == "running"

    # Limits

    def find_cause(self, noted: Callable[[], LimitHits]) -> str | None:
        """Return the limit that was run into since that was noted, if any, and note it."""
        now = self.container.limit_hits()
        before = noted()
        reached = self.container.limits_reached()
        self.note_hits(now)
        if now.oom > before.oom:
            return "oom"
        if now.pids > before.pids:
            return "pids"
        for kind in ("pids", "disk"):
            if kind in reached:
                self._events.append(SandboxEvent(kind, time.time()))
                return kind
        return None

    def note_hits(self, now: LimitHits) -> None:
        """Add to the events what has happened since the last time."""
        with self._lock:
            before, self._hits = self._hits, now
            if now.oom > before.oom:
                self._events.append(SandboxEvent("oom", time.time()))
            if now.pids > before.pids:
                self._events.append(SandboxEvent("pids", time.time()))

    def events(self) -> tuple[SandboxEvent, ...]:
        """Return the limits it ran into, as far as noticed."""
        self.note_hits(self.container.limit_hits())
        return tuple(self._events)


class Use:
    """One use of a sandbox, as a context."""

    def __init__(self, life: Life) -> None:
        self._life = life

    @property
    def sandbox_id(self) -> str:
        """The sandbox."""
        return self._life.container.id

    def __enter__(self) -> Use:
        self._run = self._life.begin_use()
        self._noted = self._life.container.note_limits()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._life.end_use()
        if not isinstance(error, RockGymError):
            return
        error.sandbox_id = self._life.container.id
        if isinstance(error, FileError):
            error.cause = _FILE_CAUSES.get(error.reason)
        elif isinstance(error, (CommandTimeout, SandboxLost)):
            error.cause = self._life.find_cause(self._noted)
        if isinstance(error, SandboxLost):
            self._lose(error)

    def _lose(self, error: SandboxLost) -> None:
        if not self._life.is_run(self._run):
            raise SandboxClosed(
                "the sandbox was stopped while it was in use",
                sandbox_id=error.sandbox_id,
                output=error.output,
            ) from error
        if error.cause:
            error.message += f" (it had run into a limit: {error.cause})"
        self._life.enter("stopped", error.message, lost=True)

    def explain(self, result: _Result) -> _Result:
        """Give a result that is a failure the limit that was run into meanwhile."""
        if result.exit_code == 0:
            return result
        cause = self._life.find_cause(self._noted)
        return dataclasses.replace(result, cause=cause) if cause else result
