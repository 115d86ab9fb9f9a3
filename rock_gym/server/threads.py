"""Where blocking calls of the library run while the event loop goes on.

There are many threads, made as they are needed, and a sandbox gets a share of them only: what
hangs in one sandbox leaves room for all others. What ends things has threads of its own, so that
`stop` gets through however much is stuck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_CONTROL_THREADS = 64


class Threads:
    """The server's threads.

    Args:
        count: How many blocking calls run at once.
    """

    def __init__(self, count: int) -> None:
        self._work = ThreadPoolExecutor(count, "rock-gym-http")
        self._control = ThreadPoolExecutor(_CONTROL_THREADS, "rock-gym-http-control")

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a call that may take long."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._work, partial(function, *args, **kwargs))

    async def control(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a call that starts or ends something, and that must not wait behind others."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._control, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Take no more calls. Those that run are not waited for."""
        self._work.shutdown(wait=False, cancel_futures=True)
        self._control.shutdown(wait=False, cancel_futures=True)
