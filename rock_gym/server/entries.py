"""A sandbox as the server holds it: on its way, running, stopped, and forgotten in time.

It is used on the event loop's thread. Calls of the library, which block, go to threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from rock_gym.errors import RockGymError
from rock_gym.sandbox import Sandbox
from rock_gym.server import views
from rock_gym.server.failures import Refused, tellable
from rock_gym.server.starts import Starter, Wish
from rock_gym.server.state import ServerState
from rock_gym.status import Transition

P = ParamSpec("P")
R = TypeVar("R")

# The library stops an idle sandbox by its own clock; we look a moment later.
_GRACE_S = 0.1


@dataclass(frozen=True, slots=True)
class Terms:
    """What was agreed with the client.

    Attributes:
        idle_s: After how long without use it is stopped.
        keep_s: How long a stopped one keeps its files.
        user: Who it is for: user_id, experiment_id and namespace, as far as given.
    """

    idle_s: float
    keep_s: float
    user: Mapping[str, str] = field(default_factory=dict)


class SandboxEntry:
    """A sandbox with an id. See ``Entry``.

    Args:
        entry_id: The id.
        server: What the server's parts share.
        wish: What it is to be.
        terms: What was agreed.

    Attributes:
        sandbox: The sandbox once it has come up.
        sessions: Names of sessions that clients have opened.
        lost_sessions: Names of those that ended with an earlier server.
    """

    kind = "sandbox"

    def __init__(self, entry_id: str, server: ServerState, wish: Wish, terms: Terms) -> None:
        self.id = entry_id
        self.wish = wish
        self.terms = terms
        self.created_s = time.time()
        self.sandbox: Sandbox | None = None
        self.sessions: set[str] = set()
        self.lost_sessions: set[str] = set()
        self._server = server
        self._failure: RockGymError | None = None
        self._noted = ""
        self._starting: asyncio.Task[None] | None = None
        self._deleting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turns = asyncio.Semaphore(server.settings.calls_per_sandbox)
        self._cpu: tuple[float, float] | None = None

    # Life

    def begin(self, starter: Starter, request_id: str) -> None:
        """Have it started, whether or not anybody waits for it."""
        starting = self._start(starter, request_id)
        self._starting = asyncio.create_task(starting, name=f"start {self.id}")

    async def _start(self, starter: Starter, request_id: str) -> None:
        try:
            sandbox = await self._server.threads.run(starter.start, self.wish)
        except Exception as error:  # a boundary: kept for whoever asks
            self._failure = tellable(error, request_id)
            self._after_change()
        else:
            self.take(sandbox)

    def take(self, sandbox: Sandbox) -> None:
        """Take a sandbox that has come up."""
        self.sandbox = sandbox
        sandbox.set_idle_timeout(self.terms.idle_s)
        self._after_change()

    def _after_change(self) -> None:
        """Write its state down, and set the time at which it is looked at."""
        if self._deleting is not None:
            return
        self._noted = self.state
        self.note()
        if self.sandbox is not None and self.state == "running":
            self._look_at(self.sandbox.last_use_s + self.terms.idle_s + _GRACE_S)
        else:
            self._look_at(time.monotonic() + self.terms.keep_s)

    def _look_at(self, time_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        seconds = max(_GRACE_S, time_s - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Find out whether it has been idle for too long, or stopped for too long."""
        if self.state == "running" or self.state != self._noted:
            self._after_change()
        else:
            self._begin_to_delete()

    def note(self) -> None:
        """Write down what the next server has to know of it."""
        self._server.registry.note(self, self.info())

    def info(self) -> dict[str, Any]:
        """Return what the next server has to know of it."""
        return {
            "image": self.wish.image,
            "spec": self.wish.spec.to_json(),
            "inner": self._inner(),
            "leased": self.wish.leased,
            "idle_s": self.terms.idle_s,
            "keep_s": self.terms.keep_s,
            "user": dict(self.terms.user),
            "created_s": self.created_s,
            "sessions": sorted(self.sessions | self.lost_sessions),
        }

    def _inner(self) -> str | None:
        """Return what it is called by the backend, and so by ``rock-gym ps``."""
        return self.sandbox.id if self.sandbox is not None else None

    @property
    def state(self) -> str:
        """Its state; one that did not come up counts as stopped."""
        if self._deleting is not None:
            return "deleted"
        if self.sandbox is not None:
            return self.sandbox.state
        return "pending" if self._failure is None else "stopped"

    def is_alive(self) -> bool:
        """Whether it can be used; see ``Entry``."""
        return self._deleting is None and self.sandbox is not None and self.sandbox.is_alive()

    def touch(self) -> None:
        """Put its idle deadline off; see ``Entry``."""
        if self.sandbox is not None:
            self.sandbox.last_use_s = time.monotonic()

    async def settle(self, seconds: float | None = None) -> None:
        """Wait until it has come up, or has failed to, or the time is over."""
        if self._starting is not None and not self._starting.done():
            await asyncio.wait({self._starting}, timeout=seconds)

    async def started(self) -> None:
        """Wait until it has come up.

        Raises:
            RockGymError: If it did not come up.
        """
        await self.settle()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Stop it, and keep its files for a while; see ``Entry``."""
        await self.settle()
        if self.sandbox is not None and self._deleting is None:
            await self._server.threads.control(self.sandbox.stop)
            self._after_change()

    async def restart(self, timeout_s: float) -> None:
        """Start it again with the files it has; its sessions end.

        Raises:
            RockGymError: As ``Sandbox.restart``.
        """
        sandbox = self._usable()
        try:
            await self._server.threads.run(sandbox.restart, timeout_s)
        finally:
            self.sessions.clear()
            self.lost_sessions.clear()
            self._after_change()

    async def delete(self) -> None:
        """End it and free its files; see ``Entry``."""
        await asyncio.shield(self._begin_to_delete())

    def _begin_to_delete(self) -> asyncio.Task[None]:
        if self._deleting is None:
            self._server.registry.forget(self)
            self._deleting = asyncio.create_task(self._delete(), name=f"delete {self.id}")
        return self._deleting

    async def _delete(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self.settle()
        if self.sandbox is not None:
            await self._server.threads.control(_end, self.sandbox)

    # Use

    def _usable(self) -> Sandbox:
        """Return the sandbox. Whether it was stopped is the library's to say.

        Raises:
            Refused: If it is not up yet, did not come up, or was deleted.
        """
        if self._deleting is not None:
            raise self._server.registry.absence(self.id)
        if self._failure is not None:
            raise Refused(
                f"{self.id} did not start: {self._failure.message}", kind="start_failed", http=409
            )
        if self.sandbox is None:
            raise Refused(
                f"{self.id} is on its way up; ask get_status until it is alive",
                kind="sandbox_pending",
                http=409,
            )
        return self.sandbox

    async def use(
        self, function: Callable[Concatenate[Sandbox, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call something with the sandbox in a thread, when it is its turn to have one more."""
        sandbox = self._usable()
        async with self._turns:
            return await self._server.threads.run(function, sandbox, *args, **kwargs)

    async def statistics(self) -> dict[str, Any]:
        """Return ``get_sandbox_statistics``'s result."""
        sandbox = self._usable()
        now = await self._server.threads.control(sandbox.statistics)
        time_s = time.monotonic()
        shares = views.percentages(now, self._cpu, time_s, self.wish.spec.resources.cpus)
        self._cpu = (now.cpu_s or 0.0, time_s)
        network = (now.network_rx_bytes or 0) + (now.network_tx_bytes or 0)
        raw = {name: getattr(now, name) for name in type(now).__slots__}
        extra = {"disk_log_percent": 0.0, "disk_dind_percent": 0.0, "net": network, "raw": raw}
        return {**shares, **extra}

    async def status(self) -> dict[str, Any]:
        """Return ``get_status``'s result; see ``Entry``."""
        history = self._first_states()
        if self.sandbox is not None and self._deleting is None:
            history = (await self._server.threads.control(self.sandbox.status)).history
            if self.state != self._noted:
                self._after_change()  # it died by itself, or was idle for too long
        return views.status(self._view(history))

    def _view(self, history: tuple[Transition, ...]) -> views.View:
        now, clock = time.time(), time.monotonic()
        runs = self.sandbox is not None and self.state == "running"
        ends = None if self._timer is None else now + self._due_s() - clock
        return views.View(
            id=self.id,
            state=self.state,
            is_alive=self.is_alive(),
            image=self.wish.image,
            spec=self.wish.spec,
            created_s=self.created_s,
            history=history,
            user=self.terms.user,
            failure=None if self._failure is None else self._failure.message,
            stops_s=ends if runs else None,
            deleted_s=None if runs else ends,
            more={"backend": self.wish.backend.name, "container": self._inner()},
        )

    def _due_s(self) -> float:
        """When it will be stopped, or deleted, by the monotonic clock."""
        if self.sandbox is not None and self.state == "running":
            return self.sandbox.last_use_s + self.terms.idle_s
        assert self._timer is not None
        loop = asyncio.get_running_loop()
        return time.monotonic() + self._timer.when() - loop.time()

    def _first_states(self) -> tuple[Transition, ...]:
        asked = Transition("pending", self.created_s, "asked for")
        if self._failure is None:
            return (asked,)
        return asked, Transition("stopped", self.created_s, self._failure.message)


def _end(sandbox: Sandbox) -> None:
    """Delete a sandbox, and let its pool know."""
    sandbox.delete()
    sandbox.release()
