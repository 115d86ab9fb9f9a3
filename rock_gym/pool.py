"""A pool of sandboxes: leases that are always pristine, with spares kept warm in the background.

A sandbox that has been handed out is never handed out again: release replaces it, off the
caller's path. Default pools are shared by all environments of a process that ask for the same.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rock_gym.backends import get_backend
from rock_gym.backends.base import Backend
from rock_gym.errors import RockGymError, SpecError, StartFailed
from rock_gym.fanout import FanOut
from rock_gym.limits import Exhaustion, Limits, PoolStatistics
from rock_gym.sandbox import Sandbox
from rock_gym.shell import check_timeout
from rock_gym.spec import DockerOptions, SandboxSpec
from rock_gym.stock import Stock

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

__all__ = ["Leases", "PoolStatistics", "SandboxPool"]

# So many in a row that verify= does not like, and it is verify= that is wrong.
_MAX_REFUSED = 3

_UNCHANGED: Any = object()


class Leases(list[Sandbox]):
    """Sandboxes leased together. A context manager: leaving it gives all of them back."""

    def __enter__(self) -> Leases:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for sandbox in self:
            sandbox.release()


class SandboxPool(Stock, FanOut):
    """Hands out sandboxes of one kind.

    A context manager: leaving it ends all its sandboxes. All methods may be called from any
    thread.

    Args:
        image: The image; None means the backend's default.
        backend: ``"auto"``, a backend's name, or a backend.
        min_idle: Spares that are kept warm.
        max_size: Sandboxes alive at once, spares and those being ended included; None for no
            limit but the machine's memory.
        exhausted: What ``acquire`` does when there is no spare and no room: ``"wait"`` for its
            turn, ``"fail"`` at once, or ``"grow"`` beyond ``max_size``.
        max_starting: Sandboxes that are started at the same time.
        reserve: Whether each sandbox's whole ``memory`` is set aside for it. Otherwise limits are
            ceilings, and another sandbox is started while the machine has free memory.
        verify: Called with a sandbox before it is handed out; one for which it is false, or that
            it raises a ``RockGymError`` for, is replaced. Starts count in the caller's timeout.
        cpus: As for ``Sandbox.start``, like all that follow.
        memory: As for ``Sandbox.start``.
        disk: As for ``Sandbox.start``.
        pids: As for ``Sandbox.start``.
        network: As for ``Sandbox.start``.
        env: As for ``Sandbox.start``.
        read_only: As for ``Sandbox.start``.
        **more: As for ``Sandbox.start``.

    Raises:
        SpecError: If an argument makes no sense.
        ImageNotFound: If there is no such image.
        BackendUnavailable: If this machine cannot run such sandboxes.
    """

    def __init__(
        self,
        image: str | None = None,
        *,
        backend: str | Backend = "auto",
        min_idle: int = 0,
        max_size: int | None = None,
        exhausted: Exhaustion = "wait",
        max_starting: int | None = None,
        reserve: bool = False,
        verify: Callable[[Sandbox], object] | None = None,
        cpus: int | float | str | None = None,
        memory: int | float | str | None = None,
        disk: int | float | str | None = None,
        pids: int | None = None,
        network: str = "none",
        env: dict[str, str] | None = None,
        read_only: tuple[str, ...] = (),
        **more: Unpack[DockerOptions],
    ) -> None:
        spec = SandboxSpec.of(
            image,
            cpus=cpus,
            memory=memory,
            disk=disk,
            pids=pids,
            network=network,
            env=env,
            read_only=read_only,
            **more,
        )
        limits = Limits(min_idle, max_size, _max_starting(max_starting), reserve)
        self._begin(spec, backend, limits, exhausted, verify)

    @classmethod
    def from_spec(
        cls,
        spec: SandboxSpec,
        *,
        backend: str | Backend = "auto",
        min_idle: int = 0,
        max_size: int | None = None,
        exhausted: Exhaustion = "wait",
        max_starting: int | None = None,
        reserve: bool = False,
        verify: Callable[[Sandbox], object] | None = None,
    ) -> SandboxPool:
        """Make a pool of a spec; arguments and errors are the constructor's."""
        pool = cls.__new__(cls)
        limits = Limits(min_idle, max_size, _max_starting(max_starting), reserve)
        pool._begin(spec, backend, limits, exhausted, verify)
        return pool

    def _begin(
        self,
        spec: SandboxSpec,
        backend: str | Backend,
        limits: Limits,
        exhausted: Exhaustion,
        verify: Callable[[Sandbox], object] | None,
    ) -> None:
        if limits.reserve and spec.resources.memory_bytes is None:
            raise SpecError("reserve=True sets each sandbox's memory aside: give memory= as well")
        chosen = get_backend(backend, spec) if isinstance(backend, str) else backend
        self._exhausted = _check_exhausted(exhausted)
        self._verify = verify
        self._closed_by = 0
        self._gone = threading.Event()
        self._closers: list[Callable[[], None]] = []
        self._set_up(chosen, spec, limits)
        _live.add(self)
        with self._lock:
            self._call_for_hands()

    @property
    def backend(self) -> str:
        """The name of its backend."""
        return self._backend.name

    # Leases

    def acquire(
        self, timeout: float | None = 60.0, *, exhausted: Exhaustion | None = None
    ) -> Sandbox:
        """Lease a sandbox that nobody has used before. Waiting callers are served in order.

        Args:
            timeout: Seconds to wait for one; None for no limit.
            exhausted: For this call, instead of the pool's own.

        Returns:
            The sandbox; ``release`` gives it back, and so does leaving it as a context manager.

        Raises:
            PoolExhausted: If none became free in time.
            PoolClosed: If the pool was closed.
            StartFailed: If a new one did not come up, or none was to the liking of ``verify``.
        """
        return self._acquire(1, timeout, exhausted)[0]

    def acquire_many(
        self, count: int, timeout: float | None = 60.0, *, exhausted: Exhaustion | None = None
    ) -> Leases:
        """Lease so many sandboxes at once, or none: two callers never wait for each other's half.

        Args:
            count: How many.
            timeout: Seconds to wait for them; None for no limit.
            exhausted: For this call, instead of the pool's own.

        Returns:
            The sandboxes; leaving the list as a context manager gives all back.

        Raises:
            SpecError: If the pool can never have so many.
            PoolExhausted: As ``acquire``.
            PoolClosed: As ``acquire``.
            StartFailed: As ``acquire``.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise SpecError(f"count is a number of sandboxes from 0, not {count!r}")
        return self._acquire(count, timeout, exhausted) if count else Leases()

    def _acquire(self, count: int, timeout: float | None, exhausted: Exhaustion | None) -> Leases:
        limit = check_timeout(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        when_exhausted = self._exhausted if exhausted is None else _check_exhausted(exhausted)
        leases = Leases()
        refused = 0
        try:
            while len(leases) < count:
                spares, missing = self._take(count - len(leases), deadline, when_exhausted)
                leases += spares
                self._start_missing(leases, missing, deadline)
                if self._verify is not None and (bad := self._refuse(leases)):
                    refused += bad
                    if refused >= _MAX_REFUSED * count:
                        raise StartFailed(
                            f"verify= refused {refused} fresh sandboxes; is it right, and does "
                            "the image have what it looks for?"
                        )
        except BaseException:
            for sandbox in leases:
                self._give_back(sandbox)
            raise
        for sandbox in leases:
            sandbox._on_leave = self.release
        return leases

    def _start_missing(self, leases: Leases, missing: int, deadline: float | None) -> None:
        """Start so many sandboxes side by side and add them, those before an error as well."""
        if missing == 1:
            leases.append(self._start_lent(deadline))
        elif missing:
            with ThreadPoolExecutor(min(missing, self._limits.max_starting)) as threads:
                tasks = [threads.submit(self._start_lent, deadline) for _ in range(missing)]
                try:
                    wait(tasks)
                finally:  # an interrupt, too, must find all that has come up in the list
                    done, _ = wait(tasks)
                    leases += [task.result() for task in done if task.exception() is None]
            for task in tasks:
                task.result()

    def _refuse(self, leases: Leases) -> int:
        """Give back, and take from the list, what ``verify`` does not like."""
        bad = [sandbox for sandbox in leases if not self._is_fine(sandbox)]
        for sandbox in bad:
            leases.remove(sandbox)
            self._give_back(sandbox, refused=True)
        return len(bad)

    def _is_fine(self, sandbox: Sandbox) -> bool:
        assert self._verify is not None
        try:
            return bool(self._verify(sandbox))
        except RockGymError:
            return False

    def release(self, sandbox: Sandbox) -> None:
        """Give a sandbox back. It is ended and replaced in the background. Twice is fine.

        Raises:
            SpecError: If it is another pool's.
        """
        if self._owner != os.getpid():
            return  # the sandbox is the parent's
        if self._give_back(sandbox):
            sandbox._on_leave = None
            sandbox._retire()
        elif sandbox.state != "deleted" and not self._closed:
            raise SpecError(f"{sandbox.id} was not leased from this pool; delete() it instead")

    # Life

    def resize(self, *, min_idle: int = _UNCHANGED, max_size: int | None = _UNCHANGED) -> None:
        """Change how many sandboxes there may be.

        Spares beyond ``min_idle`` are ended. Leases beyond ``max_size`` are left alone, and none
        is given out until enough have come back.

        Raises:
            SpecError: If a number makes no sense.
            PoolClosed: If the pool was closed.
        """
        self._check_open()
        with self._lock:
            self._check_open()
            old = self._limits
            self._limits = replace(
                old,
                min_idle=old.min_idle if min_idle is _UNCHANGED else min_idle,
                max_size=old.max_size if max_size is _UNCHANGED else max_size,
            )
            # Who waits for the next try may have looked at the old numbers, and rest for good.
            self._retry_s = self._retry_at = 0.0
            most = self._limits.max_size
            room = None if most is None else max(0, most - len(self._leased))
            spares = self._limits.min_idle
            self._shed_spares(spares if room is None else min(spares, room))

    def drain(self, timeout: float | None = None) -> None:
        """Lend no more, wait until every lease has come back, and close.

        Who waits in ``acquire`` gets a ``PoolClosed``, and so does who calls it later.

        Args:
            timeout: Seconds to wait; None for no limit.

        Raises:
            PoolExhausted: If a lease did not come back in time. The pool lends no more, and
                ``close`` ends what is left.
            PoolClosed: If the pool was closed.
        """
        limit = check_timeout(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        self._check_open()
        with self._lock:
            self._check_open()
            self._draining = True
            self._shed_spares(0)
            self._wait_until_unused(deadline)
        self.close()

    def on_close(self, callback: Callable[[], None]) -> None:
        """Have a callback called when the pool is closed, before its sandboxes end."""
        with self._lock:
            self._check_open()
            self._closers.append(callback)

    def close(self) -> None:
        """End all its sandboxes, the leased ones included, and return when they have ended.

        Twice is fine.
        """
        if self._owner != os.getpid():
            self._closed = True  # the sandboxes are the parent's
            return
        with self._lock:
            was_closed, self._closed = self._closed, True
            closers, self._closers = self._closers, []
            if not was_closed:
                self._closed_by = threading.get_ident()
            self._changed.notify_all()
        if not was_closed:
            # Whatever a callback raises, the others are called and the sandboxes end.
            with contextlib.ExitStack() as stack:
                stack.callback(self._end_all)
                for closer in reversed(closers):
                    stack.callback(closer)
        elif self._closed_by != threading.get_ident():  # a callback that closes it must not wait
            self._gone.wait()

    def _end_all(self) -> None:
        with self._lock:
            sandboxes, threads = self._take_all()
        try:
            _delete_all(sandboxes)
            for thread in threads:
                thread.join()
        finally:
            self._gone.set()

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> SandboxPool:
        # gymnasium copies the arguments of an environment; the pool behind it is one.
        return self

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._owner == os.getpid():
            held = bool(self._idle or self._leased)
            # First, since a warning may be an error.
            with contextlib.suppress(RockGymError):
                self.close()
            if held:
                warnings.warn(
                    "a SandboxPool was never closed; use `with`, or call close()",
                    ResourceWarning,
                    stacklevel=1,
                    source=self,
                )


def _delete_all(sandboxes: Iterable[Sandbox]) -> None:
    for sandbox in sandboxes:
        sandbox._on_leave = None
        sandbox._retire()
    for sandbox in sandboxes:
        sandbox.delete()


def _max_starting(given: int | None) -> int:
    return max(2, os.cpu_count() or 1) if given is None else given


def _check_exhausted(exhausted: Exhaustion) -> Exhaustion:
    if exhausted not in ("wait", "fail", "grow"):
        raise SpecError(f"exhausted is 'wait', 'fail' or 'grow', not {exhausted!r}")
    return exhausted


_live: weakref.WeakSet[SandboxPool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Registered after the backends' own, and so called before it.
    for pool in tuple(_live):
        pool.close()


def _renew_locks() -> None:
    for pool in tuple(_live):
        pool._renew_locks()


os.register_at_fork(after_in_child=_renew_locks)
