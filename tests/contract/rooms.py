"""One sandbox for many tests, emptied between them.

A container takes half a second to start and a hundredth of one to empty. Of the embedded backend
a new sandbox is there as quickly, so each test has its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rock_gym import Sandbox
from rock_gym.errors import RockGymError

# Modules whose tests are about what happens inside, and not about how a sandbox begins or ends.
SHARED = (
    "test_execute",
    "test_files",
    "test_isolation",
    "test_pty",
    "test_sessions",
    "test_streaming",
    "test_transfer",
)

# The first process outlives it. The shell that runs it does not.
END_ALL = "kill -9 -1"
# All places that anybody may write to, but for what the image has there.
EMPTY = (
    'find "$PWD" "$HOME" /tmp /var/tmp /dev/shm -mindepth 1 ! -name .bashrc ! -name .profile '
    "-delete && ls /proc | grep -c '^[0-9]'"
)


class Room:
    """A container that is replaced when a test has ended or broken it."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._sandbox: Sandbox | None = None
        self._processes = ""

    def enter(self) -> Sandbox:
        """The sandbox, as it was when it was new."""
        if self._sandbox is not None and not self._is_emptied(self._sandbox):
            self.close()
        if self._sandbox is None:
            self._sandbox = Sandbox.start(**self._options)
            self._processes = self._sandbox.execute(EMPTY, check=True).stdout
        return self._sandbox

    def _is_emptied(self, sandbox: Sandbox) -> bool:
        try:
            for name in sandbox.status().sessions:
                sandbox.close_session(name)
            sandbox.execute(END_ALL, timeout=5)
            emptied = sandbox.execute(EMPTY, timeout=5)
        except RockGymError:
            return False
        return (emptied.stdout, emptied.exit_code) == (self._processes, 0) and not (
            sandbox.status().events
        )

    def close(self) -> None:
        """End it, whatever has become of it."""
        if self._sandbox is not None:
            self._sandbox.delete()
            self._sandbox = None


@contextlib.contextmanager
def room(**options: Any) -> Iterator[Room]:
    """A room that is closed at the end."""
    made = Room(**options)
    try:
        yield made
    finally:
        made.close()
