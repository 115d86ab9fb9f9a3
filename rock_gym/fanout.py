"""The same work in many sandboxes side by side: outcomes in order, one for each.

What goes wrong in one sandbox is that sandbox's outcome and no other's.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from rock_gym.errors import RockGymError, SandboxClosed, SpecError
from rock_gym.limits import Exhaustion
from rock_gym.sandbox import CommandResult, Sandbox, ShellResult

T = TypeVar("T")
R = TypeVar("R")

_MAX_THREADS = 64

# Work that takes less shows no bar.
_BAR_AFTER_S = 2.0


class FanOut:
    """What a pool does in many sandboxes at once."""

    def acquire(
        self, timeout: float | None = 60.0, *, exhausted: Exhaustion | None = None
    ) -> Sandbox:
        """Lease a sandbox."""
        raise NotImplementedError

    def execute(
        self,
        commands: Sequence[str | list[str]],
        *,
        sandboxes: Sequence[Sandbox] | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> list[CommandResult | RockGymError]:
        """Run each command in a sandbox of its own, side by side.

        Args:
            commands: One command per sandbox.
            sandboxes: Where they run. None means a fresh one for each, given back afterwards.
            progress: Whether to show a bar; None shows one on a terminal if it takes long.
            options: As for ``Sandbox.execute``.

        Returns:
            One outcome per command, in order: its result, or the error it ended with.

        Raises:
            SpecError: If there are not as many sandboxes as commands.
        """
        return self.map(
            lambda sandbox, command: sandbox.execute(command, **options),
            commands,
            sandboxes=sandboxes,
            progress=progress,
        )

    def run_in_session(
        self,
        name: str,
        commands: Sequence[str],
        *,
        sandboxes: Sequence[Sandbox],
        progress: bool | None = None,
        **options: Any,
    ) -> list[ShellResult | RockGymError]:
        """Run each command in the session of that name of its sandbox, made where there is none.

        Args:
            name: The session's name.
            commands: One command per sandbox.
            sandboxes: Where they run.
            progress: As for ``execute``.
            options: As for ``Sandbox.run_in_session``.

        Returns:
            One outcome per sandbox, in order: its result, or the error it ended with.

        Raises:
            SpecError: If there are not as many sandboxes as commands.
        """

        def run(sandbox: Sandbox, command: str) -> ShellResult:
            if name not in sandbox.status().sessions:
                sandbox.create_session(name)
            return sandbox.run_in_session(name, command, **options)

        return self.map(run, commands, sandboxes=sandboxes, progress=progress)

    def write_files(
        self,
        files: Mapping[str, str | bytes],
        *,
        sandboxes: Sequence[Sandbox],
        progress: bool | None = None,
    ) -> list[RockGymError | None]:
        """Write the same files in every sandbox.

        Args:
            files: Contents by path.
            sandboxes: Where they are written.
            progress: As for ``execute``.

        Returns:
            One outcome per sandbox, in order: None, or the error it ended with.
        """

        def write(sandbox: Sandbox, _: Sandbox) -> None:
            for path, content in files.items():
                sandbox.write_file(path, content)

        return self.map(write, sandboxes, sandboxes=sandboxes, progress=progress)

    def map(
        self,
        function: Callable[[Sandbox, T], R],
        items: Sequence[T],
        *,
        sandboxes: Sequence[Sandbox] | None = None,
        progress: bool | None = None,
    ) -> list[R | RockGymError]:
        """Call a function with a sandbox and an item for each item, side by side.

        Args:
            function: What to do. A ``RockGymError`` from it is that item's outcome; any other
                exception is raised here, and ends what runs in the sandboxes that were fresh.
            items: One per sandbox.
            sandboxes: As for ``execute``.
            progress: As for ``execute``.

        Returns:
            One outcome per item, in order: what the function returned, or the error.

        Raises:
            SpecError: If there are not as many sandboxes as items.
        """
        if sandboxes is not None and len(sandboxes) != len(items):
            raise SpecError(f"{len(items)} items for {len(sandboxes)} sandboxes: give one for each")

        if not items:
            return []
        borrowed = _Borrowed(self.acquire)

        def work(index: int) -> R | RockGymError:
            try:
                given = None if sandboxes is None else nullcontext(sandboxes[index])
                with given or borrowed.one() as sandbox:
                    return function(sandbox, items[index])
            except RockGymError as error:
                return error

        with ThreadPoolExecutor(min(len(items), _MAX_THREADS)) as threads:
            tasks = [threads.submit(work, index) for index in range(len(items))]
            try:
                _watch(tasks, sys.stderr.isatty() if progress is None else progress)
                return [task.result() for task in tasks]
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                borrowed.give_up()
                raise


class _Borrowed:
    """The sandboxes that a piece of work has borrowed at the moment."""

    def __init__(self, acquire: Callable[..., Sandbox]) -> None:
        self._acquire = acquire
        self._lock = threading.Lock()
        self._sandboxes: set[Sandbox] = set()
        self._given_up = False

    @contextmanager
    def one(self) -> Iterator[Sandbox]:
        """Borrow one for the time of the block."""
        with self._acquire(timeout=None, exhausted="wait") as sandbox:
            with self._lock:
                if self._given_up:
                    raise SandboxClosed("the work was given up", sandbox_id=sandbox.id)
                self._sandboxes.add(sandbox)
            try:
                yield sandbox
            finally:
                with self._lock:
                    self._sandboxes.discard(sandbox)

    def give_up(self) -> None:
        """End all that is running in them, so that nobody waits for it."""
        with self._lock:
            self._given_up = True
            sandboxes = tuple(self._sandboxes)
        for sandbox in sandboxes:
            sandbox.release()


def _watch(tasks: list[Future[Any]], shown: bool) -> None:
    """Wait until all is done or something raised, with a bar if it takes long and is shown."""
    start = time.monotonic()
    left = set(tasks)
    with _bar(len(tasks)) if shown else nullcontext(None) as advance:
        while left:
            wait_s = max(0.0, start + _BAR_AFTER_S - time.monotonic()) or None
            done, left = wait(
                left, timeout=wait_s if shown else None, return_when="FIRST_COMPLETED"
            )
            for task in done:
                task.result()
            if advance is not None and time.monotonic() - start >= _BAR_AFTER_S:
                advance(len(tasks) - len(left))


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, which appears with the first advance."""
    from rich.console import Console
    from rich.progress import BarColumn as Bar
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("sandboxes"), Bar(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("", total=total)
    started = False

    def advance(done: int) -> None:
        nonlocal started
        if not started:
            bar.start()
            started = True
        bar.update(task, completed=done)

    try:
        yield advance
    finally:
        if started:
            bar.stop()
