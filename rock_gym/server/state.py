"""What all routes of a server share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable

from rock_gym.backends.docker.owner import owner_label
from rock_gym.server.journal import Journal
from rock_gym.server.metrics import Metrics
from rock_gym.server.registry import Registry
from rock_gym.server.settings import Settings
from rock_gym.server.threads import Threads

_log = logging.getLogger("rock_gym.server")

Hook = Callable[[], Awaitable[None]]


class ServerState:
    """What all routes of a server share. Made before the event loop runs.

    Attributes:
        settings: What the server was told.
        threads: Where blocking calls run.
        registry: What has an id.
        metrics: Figures for Prometheus.
        stopping: Whether the server is on its way out, and takes no more requests.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.threads = Threads(settings.max_threads)
        self.registry = Registry(
            Journal(settings.state, owner_label(), settings.adopt), settings.max_sandboxes
        )
        self.metrics = Metrics()
        self.metrics.watch(
            "rock_gym_entries",
            "What has an id.",
            "state",
            lambda: (entry.state for entry in self.registry),
        )
        self.stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._starters: list[Hook] = []
        self._closers: list[Hook] = []
        self._enders: list[Hook] = []

    def on_start(self, hook: Hook) -> None:
        """Have something done before the first request."""
        self._starters.append(hook)

    def on_closing(self, hook: Hook) -> None:
        """Have something done while the entries are deleted: what keeps them from it is to end."""
        self._closers.append(hook)

    def on_stop(self, hook: Hook) -> None:
        """Have something done when all entries have been deleted, last come first served."""
        self._enders.append(hook)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Have something done that nobody waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def start(self) -> None:
        """Begin: called when the event loop runs."""
        for hook in self._starters:
            await hook()

    async def stop(self) -> None:
        """End everything that the server has. Twice is fine.

        What waits for a command in a sandbox gets its answer by that.
        """
        if self.stopping:
            return
        self.stopping = self.registry.ending = True
        # Some entries are deleted only when their starts have failed, which the closers see to.
        entries = [entry.delete() for entry in self.registry]
        await _all([*entries, *(hook() for hook in self._closers)])
        for hook in reversed(self._enders):
            await _all([hook()])
        self.threads.close()
        self.registry.journal.close()


async def _all(things: Iterable[Awaitable[None]]) -> None:
    """Wait for all, and log what fails: the rest must end all the same."""
    results = await asyncio.gather(*things, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            _log.error("something did not end", exc_info=result)
