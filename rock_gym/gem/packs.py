"""The host's side of a process that several environments share.

Cheaper by far than a process for each where a turn is short, as one read and one write serve all of
them. The price: they take turns, and what kills the process ends the episodes of all of them.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rock_gym.errors import EnvError, RockGymError, WireError
from rock_gym.gem import wire
from rock_gym.gem.channel import EnvChannel
from rock_gym.gem.config import EnvConfig
from rock_gym.gem.guests import close_in_children
from rock_gym.gem.leasing import Pool, Seat, lease_seat
from rock_gym.gem.packed_worker import PackedWorker
from rock_gym.gem.places import python_for
from rock_gym.gem.replies import gone, late

if TYPE_CHECKING:
    from rock_gym.sandbox import Sandbox

__all__ = ["Pack", "PackedWorker", "lease_pack"]

_SEND_S = 30.0


def lease_pack(
    config: EnvConfig,
    pool: Pool,
    packs_per_sandbox: int,
    timeout_s: float | None,
    limits: Mapping[str, float | None],
    changed: Callable[[int], None],
) -> Pack:
    """Lease a place for a process of several environments; raises as ``lease_worker``.

    Args:
        config: One of the environments.
        pool: Where sandboxes come from.
        packs_per_sandbox: How many such processes may share a sandbox.
        timeout_s: Seconds until a sandbox with GEM imported must be there; None for no limit.
        limits: As for ``Pack``.
        changed: As for ``Pack``.
    """

    def occupy(seat: Seat) -> Pack:
        return Pack(seat, config, limits, changed)

    return lease_seat(pool, python_for(config, pool), packs_per_sandbox, timeout_s, occupy)


class Pack:
    """A process for several environments. For one thread at a time, but for ``join`` and ``leave``.

    Its process is begun and not waited for.

    Args:
        seat: Its place in a guest, which is the pack's once there is one.
        config: One of the environments, whose module is imported before the process is forked.
        limits: Seconds that a ``"step"`` and a ``"reset"`` may take.
        changed: Called with the number of each environment that loses its process while it waits.

    Raises:
        SandboxLost: If the guest is gone.
    """

    def __init__(
        self,
        seat: Seat,
        config: EnvConfig,
        limits: Mapping[str, float | None],
        changed: Callable[[int], None],
    ) -> None:
        self.sandbox: Sandbox = seat.guest.sandbox
        self.why_gone: RockGymError | None = None
        self.channel: EnvChannel | None = None
        self.forks = 0
        self._seat = seat
        self._gem_id, self._preload = config.gem_id, not config.lacks_data
        self._limits = limits
        self._changed = changed
        self._lock = threading.Lock()
        self._members: set[PackedWorker] = set()
        self._closed = False
        # Who asked, by which of its serials, and for what, in the order of the answers.
        self._owed: deque[tuple[PackedWorker, int, str]] = deque()
        # Since when the first of these has its turn.
        self._since_s = math.inf
        self._unsent: list[tuple[int, wire.Make | wire.Reset | wire.Step]] = []
        close_in_children(self)
        self.begin()

    @property
    def is_alive(self) -> bool:
        """Whether there is a guest to fork a process for it."""
        return not self._closed and self._seat.guest.is_alive()

    def join(self, number: int, config: EnvConfig) -> PackedWorker | None:
        """Add an environment. From any thread.

        Returns:
            What plays it; None if the pack is at its end, as all others have left it.

        Raises:
            SpecError: If there is anything in its arguments that JSON has not.
            SandboxLost: If the sandbox died.
        """
        try:
            request = config.request(self._seat.guest)
        except BaseException:
            self.leave(None)
            raise
        with self._lock:
            if self._closed:
                return None
            worker = PackedWorker(self, number, config, request)
            self._members.add(worker)
            return worker

    def leave(self, worker: PackedWorker | None) -> None:
        """Remove an environment, if it is one; the process ends with the last. From any thread."""
        with self._lock:
            if worker is not None:
                self._members.discard(worker)
            if self._members or self._closed:
                return
            self._closed = True
        self._kill()
        self._seat.leave()

    def fileno(self) -> int:
        """The descriptor to poll for answers. Another after a reset that forked."""
        return -1 if self.channel is None else self.channel.fileno()

    def begin(self) -> None:
        """Have a process forked if there is none. Does not wait for it.

        Raises:
            SandboxLost: If the guest is gone.
        """
        if self.channel is not None and not self.channel.is_there():
            self._lose(self._loss())
        if self.channel is None:
            self.channel = self._seat.guest.fork(self._gem_id, self._preload)
            self.forks += 1
            self.why_gone = None

    def prepare(self, number: int, request: wire.Make) -> None:
        """Note what is to be made first. If that fails, later requests are answered so."""
        self._unsent.append((number, request))

    def ask(self, worker: PackedWorker, request: wire.Reset | wire.Step, what: str) -> None:
        """Note a request for a ``"reset"`` or a ``"step"``, to be sent by ``flush``."""
        self._unsent.append((worker.number, request))
        owed = self._owed
        if not owed:
            self._since_s = time.monotonic()
        owed.append((worker, worker.serial, what))

    def flush(self) -> None:
        """Send what was asked. A process that is gone is found out, and its environments told."""
        items, self._unsent = self._unsent, []
        if not items or self.channel is None:
            return
        try:
            try:
                self.channel.send(wire.Batch(items), _SEND_S)
            except wire.WireError:
                # Too large together; none is so alone, as that was looked at.
                for item in items:
                    self.channel.send(wire.Batch([item]), _SEND_S)
        except TimeoutError:
            self.expire()
        except OSError:
            self._lose(self._loss())

    def pump(self) -> list[int]:
        """Take in what has come, without waiting.

        Returns:
            The numbers of the environments to look after: those with an answer, and the one whose
            turn it is now.
        """
        channel, numbers = self.channel, list[int]()
        if channel is None:
            return numbers
        front = self._owed[0] if self._owed else None
        try:
            while True:
                message = channel.take() if channel.greeted else channel.take_greeted()
                if message is None:
                    break
                if type(message) is not wire.Answers:
                    raise wire.WireError(f"a {type(message).__name__} came for a batch")
                self._distribute(message.items, numbers)
        except wire.WireError as error:
            self.distrust(error)
        except (EOFError, OSError):
            self._lose(self._loss())
        self.sandbox.last_use_s = time.monotonic()
        if self._owed and self._owed[0] is not front:
            self._since_s = time.monotonic()
            numbers.append(self._owed[0][0].number)
        return numbers

    def _distribute(self, answers: Sequence[wire.Answer], numbers: list[int]) -> None:
        if not answers:  # of these a process could send more than can ever be taken in
            raise wire.WireError("a message of answers came without any")
        owed = self._owed
        for answer in answers:
            if not owed:
                raise wire.WireError("an answer came that nobody had asked for")
            worker, serial, _ = owed.popleft()
            if type(answer) is wire.Failed and answer.fatal:
                # It has not been made; the next reset asks for it anew.
                worker.made_in = -1
            if worker.serial == serial:
                worker.answer = answer
                numbers.append(worker.number)

    @property
    def deadline(self) -> float:
        """When the environment whose turn it is will have taken too long."""
        if not self._owed:
            return math.inf
        limit_s = self._limits[self._owed[0][2]]
        return math.inf if limit_s is None else self._since_s + limit_s

    def expire(self) -> None:
        """Kill the process, as the environment whose turn it is has taken too long."""
        if not self._owed:
            self._lose(self._loss())
            return
        worker, serial, what = self._owed[0]
        error = late(what, worker.config.gem_id, self._limits[what], self.sandbox.id)
        if worker.serial == serial:
            worker.error = error
        self._lose(
            EnvError(
                f"the process is gone that it shared: {error.message}", sandbox_id=self.sandbox.id
            )
        )

    def distrust(self, error: wire.WireError) -> RockGymError:
        """Kill the process, as it sent no valid answer; returns what is to be raised."""
        lost = WireError(
            f"the environments' process sent no valid answer: {error}", sandbox_id=self.sandbox.id
        )
        self._lose(lost)
        return lost

    def _lose(self, error: RockGymError) -> None:
        """Tell all environments that wait for an answer; the others find out when they ask."""
        self._kill()
        self.why_gone = error
        self._unsent.clear()
        owed, self._owed = self._owed, deque()
        for worker, serial, _ in owed:
            if worker.serial == serial:
                worker.error = worker.error or error
                self._changed(worker.number)

    def _loss(self) -> RockGymError:
        forked = self.channel is None or self.channel.heard
        self._kill()
        answers = self._seat.guest.answers()
        return gone("the environments' process", forked, answers, self.sandbox.id)

    def _kill(self) -> None:
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.kill()
            channel.close()

    def _drop(self) -> None:
        """Let go of everything, in a forked child: it is the parent's."""
        self._closed = True
        for worker in tuple(self._members):
            worker.drop()
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()
