"""A pool of sandboxes: leases that are always pristine, with spares kept warm in the background.

A sandbox that has been handed out is never handed out again: release replaces it, off the
caller's path. Default pools are shared by all environments of a process that ask for the same.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rock_gym.backends import get_backend
from rock_gym.backends.base import Backend
from rock_gym.errors import PoolClosed, PoolExhausted, RockGymError, SpecError
from rock_gym.sandbox import Sandbox
from rock_gym.shell import check_timeout
from rock_gym.spec import DockerOptions, SandboxSpec

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

_log = logging.getLogger("rock_gym")

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 10.0


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a pool holds and has done.

    Attributes:
        leased: Sandboxes handed out and not yet given back.
        idle: Warm spares.
        starting: Sandboxes on their way up.
        waiting: Callers in ``acquire``.
        started: Sandboxes started since the pool was made.
        failed: Starts that failed.
    """

    leased: int
    idle: int
    starting: int
    waiting: int
    started: int
    failed: int


class SandboxPool:
    """Hands out sandboxes of one kind.

    A context manager: leaving it ends all its sandboxes. All methods may be called from any
    thread.

    Args:
        image: The image; None means the backend's default.
        backend: ``"auto"``, a backend's name, or a backend.
        min_idle: Spares that are kept warm.
        max_size: Sandboxes alive at once, spares included; None for no limit.
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
        self._setup(spec, backend, min_idle, max_size)

    @classmethod
    def from_spec(
        cls,
        spec: SandboxSpec,
        *,
        backend: str | Backend = "auto",
        min_idle: int = 0,
        max_size: int | None = None,
    ) -> SandboxPool:
        """Make a pool of a spec; raises as the constructor."""
        pool = cls.__new__(cls)
        pool._setup(spec, backend, min_idle, max_size)
        return pool

    def _setup(
        self, spec: SandboxSpec, backend: str | Backend, min_idle: int, max_size: int | None
    ) -> None:
        _check_sizes(min_idle, max_size)
        self.spec = spec
        self._backend = get_backend(backend, spec) if isinstance(backend, str) else backend
        self._min_idle = min_idle
        self._max_size = max_size
        self._changed = threading.Condition()
        self._idle: deque[Sandbox] = deque()
        self._leased: dict[str, Sandbox] = {}
        self._tickets: deque[object] = deque()
        self._starting = 0
        self._started = 0
        self._failed = 0
        self._closed = False
        self._closers: list[Callable[[], None]] = []
        self._owner = os.getpid()
        self._wanted = threading.Event()
        self._refiller: threading.Thread | None = None
        _pools.add(self)
        if min_idle:
            self._wake_refiller()

    @property
    def backend(self) -> str:
        """The name of its backend."""
        return self._backend.name

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to a process that this one was forked from."""
        return self._closed or self._owner != os.getpid()

    # Leases

    def acquire(self, timeout: float | None = 60.0) -> Sandbox:
        """Lease a sandbox that nobody has used before. Waiting callers are served in order.

        Args:
            timeout: Seconds to wait for one; None for no limit.

        Returns:
            The sandbox; ``release`` gives it back, and so does leaving it as a context manager.

        Raises:
            PoolExhausted: If none became free in time.
            PoolClosed: If the pool was closed.
            StartFailed: If a new one did not come up.
        """
        limit = check_timeout(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        sandbox = self._take(deadline)
        if sandbox is None:
            sandbox = self._start_one(deadline)
        sandbox._on_leave = self.release
        self._wake_refiller()
        return sandbox

    def _take(self, deadline: float | None) -> Sandbox | None:
        """Take a spare, or the right to start one (None), when it is this caller's turn."""
        ticket = object()
        with self._changed:
            self._tickets.append(ticket)
            try:
                while True:
                    self._check_open()
                    if self._tickets[0] is ticket:
                        spare = self._pop_living()
                        if spare is not None:
                            self._leased[spare.id] = spare
                            return spare
                        if self._has_room():
                            self._starting += 1
                            return None
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise PoolExhausted(
                            f"all {self._max_size} sandboxes of the pool are in use; release "
                            "some, raise max_size, or wait longer"
                        )
                    self._changed.wait(left)
            finally:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def _pop_living(self) -> Sandbox | None:
        while self._idle:
            spare = self._idle.popleft()
            if spare.is_alive():
                return spare
            spare.stop()
        return None

    def _has_room(self) -> bool:
        alive = len(self._leased) + len(self._idle) + self._starting
        return self._max_size is None or alive < self._max_size

    def _start_one(self, deadline: float | None) -> Sandbox:
        limit = 60.0 if deadline is None else max(0.001, deadline - time.monotonic())
        try:
            sandbox = Sandbox.from_spec(self._backend, self.spec, limit)
        except BaseException:
            with self._changed:
                self._starting -= 1
                self._failed += 1
                self._changed.notify_all()
            raise
        with self._changed:
            self._starting -= 1
            self._started += 1
            closed = self._closed
            if not closed:
                self._leased[sandbox.id] = sandbox
        if closed:
            sandbox.stop()
            self._check_open()
        return sandbox

    def release(self, sandbox: Sandbox) -> None:
        """Give a sandbox back. It is ended, and replaced in the background. Twice is fine.

        Raises:
            SpecError: If it is another pool's.
        """
        with self._changed:
            known = self._leased.pop(sandbox.id, None)
            self._changed.notify_all()
        if known is None and sandbox.state == "running":
            raise SpecError(f"{sandbox.id} was not leased from this pool; stop() it instead")
        sandbox._on_leave = None
        sandbox.stop()
        self._wake_refiller()

    def execute(self, commands: Sequence[str | list[str]], **options: Any) -> list[Any]:
        """Run each command in a sandbox of its own, side by side.

        Args:
            commands: One command per sandbox.
            options: As for ``Sandbox.execute``.

        Returns:
            One outcome per command, in order: its result, or the error it ended with.
        """
        from concurrent.futures import ThreadPoolExecutor

        def run(command: str | list[str]) -> Any:
            try:
                with self.acquire(timeout=None) as sandbox:
                    return sandbox.execute(command, **options)
            except RockGymError as error:
                return error

        if not commands:
            return []
        with ThreadPoolExecutor(min(len(commands), 32)) as executor:
            return list(executor.map(run, commands))

    # Spares

    def _wake_refiller(self) -> None:
        """Have the background thread look whether spares are missing, if any are wanted."""
        if not self._min_idle:
            return
        with self._changed:
            if self._refiller is None and not self._closed:
                self._refiller = threading.Thread(
                    target=_refill,
                    args=(weakref.ref(self), self._wanted),
                    name="rock-gym-refill",
                    daemon=True,
                )
                self._refiller.start()
        self._wanted.set()

    def _fill(self) -> bool:
        """Start spares until enough are warm. Returns False when a start failed."""
        while True:
            with self._changed:
                missing = self._min_idle - len(self._idle)
                if self.closed or missing <= 0 or not self._has_room():
                    return True
                self._starting += 1
            spare: Sandbox | None = None
            try:
                spare = Sandbox.from_spec(self._backend, self.spec)
            except RockGymError as error:
                _log.warning("a spare sandbox did not start: %s", error)
            with self._changed:
                self._starting -= 1
                self._started += spare is not None
                self._failed += spare is None
                kept = spare is not None and self._keep(spare)
                self._changed.notify_all()
            if spare is None:
                return False
            if not kept:
                spare.stop()

    def _keep(self, spare: Sandbox) -> bool:
        if self._closed:
            return False
        self._idle.append(spare)
        return True

    # Life

    def statistics(self) -> PoolStatistics:
        """Return what it holds and has done."""
        with self._changed:
            return PoolStatistics(
                leased=len(self._leased),
                idle=len(self._idle),
                starting=self._starting,
                waiting=len(self._tickets),
                started=self._started,
                failed=self._failed,
            )

    def on_close(self, callback: Callable[[], None]) -> None:
        """Have a callback called when the pool is closed, before its sandboxes end."""
        with self._changed:
            self._check_open()
            self._closers.append(callback)

    def close(self) -> None:
        """End all its sandboxes, the leased ones included. Twice is fine."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            sandboxes = [*self._idle, *self._leased.values()]
            self._idle.clear()
            self._leased.clear()
            closers, self._closers = self._closers, []
            refiller = self._refiller
            self._changed.notify_all()
        self._wanted.set()
        if self._owner != os.getpid():
            return
        for closer in closers:
            closer()
        for sandbox in sandboxes:
            sandbox._on_leave = None
            sandbox.stop()
        if refiller is not None and refiller is not threading.current_thread():
            refiller.join()

    def _check_open(self) -> None:
        if self.closed:
            raise PoolClosed("the pool was closed; make a new one")

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


def _refill(pool_ref: weakref.ref[SandboxPool], wanted: threading.Event) -> None:
    """Keep a pool's spares warm for as long as it is open and referred to."""
    delay_s: float | None = None
    while True:
        wanted.wait(delay_s)
        wanted.clear()
        pool = pool_ref()
        if pool is None or pool._closed:
            return
        retry_s = min(2 * (delay_s or _FIRST_RETRY_S), _LAST_RETRY_S)
        delay_s = None if pool._fill() else retry_s
        del pool


def _check_sizes(min_idle: int, max_size: int | None) -> None:
    if isinstance(min_idle, bool) or not isinstance(min_idle, int) or min_idle < 0:
        raise SpecError(f"min_idle is a number of sandboxes from 0, not {min_idle!r}")
    if max_size is None:
        return
    if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
        raise SpecError(f"max_size is a number of sandboxes from 1, or None, not {max_size!r}")
    if max_size < min_idle:
        raise SpecError(f"max_size={max_size} is less than min_idle={min_idle}")


_pools: weakref.WeakSet[SandboxPool] = weakref.WeakSet()
_defaults: dict[tuple[str, SandboxSpec], SandboxPool] = {}
_defaults_lock = threading.Lock()


def default_pool(backend: str, spec: SandboxSpec) -> SandboxPool:
    """Return this process's pool for a kind of sandbox, made on first use.

    Raises:
        SpecError: As ``SandboxPool``.
        ImageNotFound: As ``SandboxPool``.
        BackendUnavailable: As ``SandboxPool``.
    """
    with _defaults_lock:
        pool = _defaults.get((backend, spec))
        if pool is None or pool.closed:
            pool = _defaults[backend, spec] = SandboxPool.from_spec(spec, backend=backend)
        return pool


def close_default_pools() -> None:
    """End the default pools and all their sandboxes; they are made anew when they are needed."""
    with _defaults_lock:
        pools = list(_defaults.values())
        _defaults.clear()
    for pool in pools:
        pool.close()


@atexit.register
def _close_all() -> None:
    # Registered after the backends' own, and so called before it.
    _defaults.clear()
    for pool in tuple(_pools):
        pool.close()
