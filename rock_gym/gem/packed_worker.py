"""One environment of a process that several share, played as one with a process to itself."""

from __future__ import annotations

import copy
import math
import warnings
from typing import TYPE_CHECKING, NoReturn, Protocol

from rock_gym.errors import EnvError, RockGymError, SpecError, WireError
from rock_gym.gem import wire
from rock_gym.gem.config import EnvConfig
from rock_gym.gem.replies import ResetReply, StepReply, check_seed, error_of, observed, stepped

if TYPE_CHECKING:
    from rock_gym.gem.channel import EnvChannel
    from rock_gym.sandbox import Sandbox

__all__ = ["Asked", "PackedWorker"]

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

    def ask(self, worker: PackedWorker, request: wire.Make | wire.Reset | wire.Step) -> None:
        """Note a request."""

    def expire(self) -> None:
        """Kill the process, as it has taken too long."""

    def leave(self, worker: PackedWorker) -> None:
        """Remove an environment."""


class Asked:
    """A request, and what comes of it."""

    __slots__ = ("answer", "error", "since_s", "what", "worker")

    def __init__(self, worker: PackedWorker, what: str) -> None:
        self.worker, self.what = worker, what
        self.since_s = math.inf
        self.answer: wire.Answer | None = None
        self.error: RockGymError | None = None


class PackedWorker:
    """One environment of a pack; it is played as an ``EnvWorker`` is, by the halves of calls.

    Attributes:
        config: What the environment is made with.
        number: What the process knows it by.
        made_in: In which of the pack's processes it was made.
        asked: What is owed to it.
    """

    __slots__ = ("__weakref__", "_closed", "_make", "asked", "config", "made_in", "number", "pack")

    alone = False

    def __init__(self, pack: Shared, number: int, config: EnvConfig, make: wire.Make) -> None:
        self.pack, self.number, self.config = pack, number, config
        self.made_in = -1
        self.asked: Asked | None = None
        self._make = make
        self._closed = False

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox it runs in."""
        return self.pack.sandbox

    @property
    def forks(self) -> int:
        """How many processes the pack has had."""
        return self.pack.forks

    @property
    def pid(self) -> int | None:
        """The process's id, as for ``EnvWorker``."""
        return None if self.pack.channel is None else self.pack.channel.pid

    def send_reset(self, seed: int) -> None:
        """Ask for a reset. What is owed is given up, and comes first all the same."""
        request = wire.Reset(check_seed(seed))
        self._check_open()
        self.asked = None
        self.pack.begin()
        if self.made_in != self.pack.forks:
            self.made_in = self.pack.forks
            self.pack.ask(self, self._make)
        self.pack.ask(self, request)

    def send_step(self, action: str) -> None:
        """Ask for a step."""
        pack = self.pack
        if self.made_in != pack.forks or pack.channel is None or self.asked is not None:
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
        pack.ask(self, request)

    def try_receive(self) -> ResetReply | StepReply | None:
        """Return the answer if it is there, else None at once; raises as ``EnvWorker`` does."""
        asked = self.asked
        if asked is None:
            raise EnvError("nothing was asked for; reset first", sandbox_id=self.sandbox.id)
        if asked.error is not None:
            self.asked = None
            raise asked.error
        answer = asked.answer
        if answer is None:
            return None
        self.asked = None
        try:
            if type(answer) is wire.Stepped and asked.what == "step":
                return stepped(answer)
            if type(answer) is wire.Observed and asked.what == "reset":
                return observed(answer)
        except wire.WireError as error:
            raise WireError(
                f"the environment sent no valid answer: {error}", sandbox_id=self.sandbox.id
            ) from None
        if type(answer) is wire.Failed:
            raise error_of(answer, self.sandbox.id)
        raise WireError(
            f"a {type(answer).__name__} came after a {asked.what}", sandbox_id=self.sandbox.id
        )

    def expire(self) -> NoReturn:
        """Kill the process, because the environment whose turn it is has taken too long.

        Raises:
            ResetTimeout: If it was this one, and a reset.
            StepTimeout: If it was this one, and a step.
            EnvError: If it was another.
        """
        asked = self.asked
        if asked is not None and asked.error is None:
            self.pack.expire()
        self.asked = None
        if asked is None or asked.error is None:
            raise EnvError("its process is gone", sandbox_id=self.sandbox.id)
        raise asked.error

    def close(self) -> None:
        """Leave the pack. From any thread; twice is fine."""
        closed, self._closed = self._closed, True
        if not closed:
            self.asked = None
            self.pack.leave(self)

    def _check_open(self) -> None:
        if self._closed:
            raise EnvError("the worker was closed; lease another one", sandbox_id=self.sandbox.id)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=1, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<PackedWorker {self.config.gem_id} in {self.sandbox.id}>"
