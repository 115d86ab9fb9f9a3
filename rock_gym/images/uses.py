"""Keeps the layers of running sandboxes from being removed, once per process and layer."""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from collections.abc import Sequence

from rock_gym.images.store import Store

_all: weakref.WeakSet[Uses] = weakref.WeakSet()


class Uses:
    """Counts the uses of layers, and holds each layer that has any. Safe for threads.

    A forked child lets go of all: the sandboxes are its parent's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[int, int]] = {}  # a descriptor and how many use it
        _all.add(self)

    def hold(self, store: Store, layers: Sequence[str]) -> tuple[str, ...]:
        """Begin a use of layers, and return what ``release`` wants.

        Raises:
            FileNotFoundError: If one of them is gone.
        """
        taken: list[str] = []
        try:
            for layer in layers:
                path = store.layer_path(layer)
                with self._lock:
                    fd, count = self._held.get(path) or (store.hold(layer), 0)
                    self._held[path] = (fd, count + 1)
                taken.append(path)
        except BaseException:
            self.release(tuple(taken))
            raise
        return tuple(taken)

    def release(self, held: Sequence[str]) -> None:
        """End a use. Only once for each ``hold``."""
        for path in held:
            with self._lock:
                if path not in self._held:
                    return  # a forked child, which has let go of all
                fd, count = self._held[path]
                if count > 1:
                    self._held[path] = (fd, count - 1)
                else:
                    del self._held[path]
                    # Not a mere close: a forked child may have a copy of this descriptor.
                    fcntl.flock(fd, fcntl.LOCK_UN)
                    os.close(fd)

    def _let_go(self) -> None:
        self._lock = threading.Lock()
        for fd, _ in self._held.values():
            os.close(fd)
        self._held.clear()


def _let_go_of_all() -> None:
    for uses in tuple(_all):
        uses._let_go()


os.register_at_fork(after_in_child=_let_go_of_all)
