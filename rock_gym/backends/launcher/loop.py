"""The launcher's event loop."""

import select
from collections.abc import Callable


class Loop:
    """Calls whoever waits for a descriptor."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.handlers: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever ``fd`` becomes readable or reaches its end."""
        self.handlers[fd] = handler
        self.poll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """Stop watching; must come before the descriptor is closed."""
        if self.handlers.pop(fd, None):
            self.poll.unregister(fd)

    def step(self, timeout_s: float | None) -> bool:
        """Wait for one event and have it handled; False when there was none in time."""
        # One at a time: a handler may close a descriptor whose number is then used anew, and
        # an older event for that number would make the next handler block.
        events = self.poll.poll(timeout_s, maxevents=1)
        for fd, _ in events:
            self.handlers[fd]()
        return bool(events)
