"""What a soak has done, survived and found wrong."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from rock_gym.errors import RockGymError
from tests.contract.support import wait_gone


class Wrong(AssertionError):
    """Raised when something is not as promised."""


def ensure(condition: object, what: str) -> None:
    """Find fault with what does not hold."""
    if not condition:
        raise Wrong(what)


def kill(pids: set[int]) -> None:
    """Kill processes of sandboxes, and wait for their end: a busy kernel takes its time."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ensure(not wait_gone(pids, 60), "processes outlived SIGKILL")


@dataclass
class Ledger:
    """Counts of all actors, and the first things that went wrong. May be used by any thread.

    Attributes:
        operations: What was done and went as it should, by kind.
        faults: What was broken on purpose, by kind.
        survived: Those of them after which all was as promised.
        refused: Calls that made no sense and were refused by the right error, by kind.
        errors: The typed errors that faults led to, by class.
        wrong: What was not as promised.
    """

    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    def add(self, counter: Counter[str], kind: str, number: int = 1) -> None:
        with self.lock:
            counter[kind] += number

    def find_wrong(self, text: str) -> None:
        """Note what is wrong, and end the soak."""
        with self.lock:
            self.wrong.append(text)
        self.over.set()

    @contextmanager
    def refusal(self, kind: str, *classes: type[Exception]) -> Iterator[None]:
        """A call that must be refused by one of these errors."""
        try:
            yield
        except classes:
            self.add(self.refused, kind)
        else:
            raise Wrong(f"{kind}: was not refused")

    @contextmanager
    def perhaps(self, *classes: type[RockGymError]) -> Iterator[None]:
        """What may fail, after a fault, and then by one of these errors."""
        try:
            yield
        except classes as error:
            self.add(self.errors, type(error).__name__)

    @contextmanager
    def soon(self, delay: float, action: Callable[[], object]) -> Iterator[None]:
        """Something that is done a moment later, while the block runs."""
        failures: list[BaseException] = []

        def act() -> None:
            try:
                action()
            except BaseException as error:
                failures.append(error)

        timer = threading.Timer(delay, act)
        timer.start()
        try:
            yield
        finally:
            timer.join()
        for failure in failures:
            raise failure

    def summary(self) -> dict[str, int]:
        return {
            "operations": self.operations.total(),
            "faults injected": self.faults.total(),
            "faults survived": self.survived.total(),
            "bad inputs refused": self.refused.total(),
            "typed errors": self.errors.total(),
        }


class Diary:
    """The last things that one actor did, to be read when something went wrong."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._last: deque[str] = deque(maxlen=12)

    def note(self, what: str) -> None:
        self._last.append(what)

    def __str__(self) -> str:
        return f"{self.name}: {' > '.join(self._last)}"
