"""One environment of a process that several share, played as one with a process to itself."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, NoReturn, Protocol

from rock_gym.errors import EnvError, RockGymError, SpecError
from rock_gym.gem import wire
from rock_gym.gem.config import EnvConfig
from rock_gym.gem.replies import ResetReply, StepReply, check_seed, error_of, observed, stepped

if TYPE_CHECKING:
    from rock_gym.gem.channel import EnvChannel
    from rock_gym.sandbox import Sandbox

__all__ = ["PackedWorker"]

# An action of so many fits into a frame, whatever characters they are.
_SMALL_CHARACTERS = 1 << 20


class Shared(Protocol):
    """What it needs of the process that it shares.

    Attributes:
        sandbox: Where that runs.
        channel: The channel to it; None if there is no process.
        forks: How many processes there have been.
        why_gone: What became of the last one, if it is gone.
    """

    sandbox: Sandbox
    channel: EnvChannel | None
    forks: int
    why_gone: RockGymError | None

    @property
    def deadline(self) -> float:
        """When what it is at will have taken too long."""

    def begin(self) -> None:
        """Have a process forked if there is none."""

    def prepare(self, number: int, request: wire.Make) -> None:
        """Note what is to be made first."""

    def ask(self, worker: PackedWorker, request: wire.Reset | wire.Step, what: str) -> None:
        """Note a request."""

    def expire(self) -> None:
        """Kill the process, as it has taken too long."""

    def distrust(self, error: wire.WireError) -> RockGymError:
        """Kill the process, as it sent no valid answer; returns what is to be raised."""

    def leave(self, worker: PackedWorker) -> None:
        """Remove an environment."""


class PackedWorker:
    """One environment of a pack; it is played as an ``EnvWorker`` is, by the halves of calls.

    Attributes:
        config: What the environment is made with.
        number: What the process knows it by.
        made_in: In which of the pack's processes it was made.
        serial: Counts what was asked, or given up, so that an answer is known by it.
        answer: The answer that is due, if it is there.
        error: What is to be raised in its place.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_make",
        "_owed",
        "answer",
        "config",
        "error",
        "made_in",
        "number",
        "pack",
        "serial",
    )

    alone = False

    def __init__(self, pack: Shared, number: int, config: EnvConfig, make: wire.Make) -> None:
        self.pack, self.number, self.config = pack, number, config
        self.made_in = -1
        self.serial = 0
        self.answer: wire.Answer | None = None
        self.error: RockGymError | None = None
        self._owed: str | None = None
        self._make = make
        self._closed = False

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox it runs in."""
        return self.pack.sandbox

    @property
    def pid(self) -> int | None:
        """The process's id, as for ``EnvWorker``."""
        return None if self.pack.channel is None else self.pack.channel.pid

    def send_reset(self, seed: int) -> None:
        """Ask for a reset. What is owed is given up, and comes first all the same."""
        request = wire.Reset(check_seed(seed))
        self._check_open()
        self._give_up()
        pack = self.pack
        pack.begin()
        if self.made_in != pack.forks:
            self.made_in = pack.forks
            pack.prepare(self.number, self._make)
        self._owed = "reset"
        pack.ask(self, request, "reset")

    def _give_up(self) -> None:
        self.serial += 1
        self._owed = self.answer = self.error = None

    def send_step(self, action: str) -> None:
        """Ask for a step."""
        pack = self.pack
        if self.made_in != pack.forks or pack.channel is None or self._owed is not None:
            if pack.why_gone is not None:
                raise copy.copy(pack.why_gone)
            raise EnvError(
                "no episode is under way, or the last answer was not received: reset first",
                sandbox_id=self.sandbox.id,
            )
        request = wire.Step(action)
        if len(action) > _SMALL_CHARACTERS:
            try:
                wire.encode(wire.Batch([(self.number, request)]))
            except wire.WireError as error:
                raise SpecError(f"the action cannot be sent: {error}") from None
        self.serial += 1
        self._owed = "step"
        pack.ask(self, request, "step")

    def try_receive(self) -> ResetReply | StepReply | None:
        """Return the answer if it is there, else None at once; raises as ``EnvWorker`` does."""
        answer, owed = self.answer, self._owed
        if answer is None:
            if owed is None:
                raise EnvError("nothing was asked for; reset first", sandbox_id=self.sandbox.id)
            if self.error is not None:
                raise self._taken_error()
            return None
        self.answer = self._owed = None
        if type(answer) is wire.Failed:
            raise error_of(answer, self.sandbox.id)
        try:
            if type(answer) is wire.Stepped and owed == "step":
                return stepped(answer)
            if type(answer) is wire.Observed and owed == "reset":
                return observed(answer)
            raise wire.WireError(f"a {type(answer).__name__} came after a {owed}")
        except wire.WireError as error:
            raise self.pack.distrust(error) from None

    def _taken_error(self) -> RockGymError:
        error = self.error or EnvError("its process is gone", sandbox_id=self.sandbox.id)
        self._give_up()
        return error

    def expire(self) -> NoReturn:
        """Kill the process, because the environment whose turn it is has taken too long.

        Raises:
            ResetTimeout: If it was this one, and a reset.
            StepTimeout: If it was this one, and a step.
            EnvError: If it was another.
        """
        if self.error is None:
            self.pack.expire()
        raise self._taken_error()

    def close(self) -> None:
        """Leave the pack. From any thread; twice is fine."""
        closed, self._closed = self._closed, True
        if not closed:
            self._give_up()
            self.pack.leave(self)

    def drop(self) -> None:
        """Let go of it, in a forked child: it is the parent's."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise EnvError("the worker was closed; lease another one", sandbox_id=self.sandbox.id)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=1, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<PackedWorker {self.config.gem_id} in {self.sandbox.id}>"
