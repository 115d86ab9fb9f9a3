"""The host's side of one environment's process: seeds and actions in, texts out, deadlines held.

A process that outlives a deadline is killed by the host, and the next reset forks another in the
same guest. What a process sends is checked before it is believed.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from typing import TYPE_CHECKING, NoReturn

from rock_gym.errors import EnvError, RockGymError, SpecError, WireError
from rock_gym.gem import wire
from rock_gym.gem.channel import EnvChannel
from rock_gym.gem.config import EnvConfig
from rock_gym.gem.guests import close_in_children
from rock_gym.gem.leasing import Pool, Seat, lease_seat
from rock_gym.gem.places import python_for, seats_per_sandbox
from rock_gym.gem.replies import (
    ResetReply,
    StepReply,
    check_seed,
    error_of,
    gone,
    late,
    observed,
    stepped,
)

if TYPE_CHECKING:
    from rock_gym.sandbox import Sandbox

__all__ = [
    "EnvConfig",
    "EnvWorker",
    "ResetReply",
    "StepReply",
    "lease_worker",
]

_SEND_S = 30.0
_NO_ANSWER = (EOFError, OSError, wire.WireError)


def lease_worker(
    config: EnvConfig,
    pool: Pool,
    envs_per_sandbox: int | None = None,
    timeout_s: float | None = 60.0,
) -> EnvWorker:
    """Lease a place for one environment. From any thread.

    Its process is begun and not waited for: what is wrong with the environment comes out at the
    first reset.

    Args:
        config: The environment.
        pool: Where sandboxes come from.
        envs_per_sandbox: How many environments may share a sandbox; None for 1 where actions may
            be executed or nothing is known of that, and 64 elsewhere.
        timeout_s: Seconds until a sandbox with GEM imported must be there; None for no limit.

    Raises:
        SpecError: If an argument makes no sense.
        EnvUnavailable: If there is no interpreter with GEM, here or in the sandbox.
        PoolExhausted: If no sandbox became free in time.
        PoolClosed: If the pool was closed.
        StartFailed: If the sandbox, or GEM in it, did not come up.
        SandboxLost: If the sandbox died meanwhile.
    """
    capacity = seats_per_sandbox(config.gem_id, envs_per_sandbox)
    python = python_for(config, pool)
    return lease_seat(pool, python, capacity, timeout_s, lambda seat: EnvWorker(config, seat))


class EnvWorker:
    """One environment in a process of its own, in a sandbox. Made by ``lease_worker``.

    For one thread at a time, but for ``close``. ``reset`` and ``step`` wait for the answer;
    ``send_reset`` and ``send_step`` do not, and ``receive`` or ``try_receive`` brings it, so that
    many environments can work at once.

    After any error but SandboxLost the next reset works: in a new process, where the old one was
    lost. After SandboxLost a new worker has to be leased.

    Attributes:
        config: What the environment is made with.
        forks: How many processes it has had. ``fileno`` is another with each.
    """

    # One of many is cold when its turn comes: what is in one place is there sooner.
    __slots__ = (
        "__weakref__",
        "_awaited",
        "_channel",
        "_closed",
        "_guest",
        "_make",
        "_sandbox",
        "_seat",
        "_using",
        "config",
        "forks",
    )

    def __init__(self, config: EnvConfig, seat: Seat) -> None:
        self.config = config
        self._seat = seat
        self._guest = seat.guest
        self._sandbox = seat.guest.sandbox
        self._channel: EnvChannel | None = None
        self._awaited: str | None = None
        self.forks = 0
        # Held while the socket is in use, which must not be closed then: its number could be
        # another's at once.
        self._using = threading.Lock()
        self._closed = True
        self._make = config.request(seat.guest)
        close_in_children(self)
        self._closed = False
        try:
            # A guest that lives but can fork none says so when the worker is first used.
            with contextlib.suppress(EnvError):
                self._fork()
        except BaseException:
            self._closed = True
            raise

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox it runs in."""
        return self._sandbox

    @property
    def alone(self) -> bool:
        """Whether it has its sandbox to itself."""
        return self._seat.alone

    def twin(self) -> EnvWorker:
        """Return another process of the same environment, on the same place.

        Raises:
            SandboxLost: If the sandbox or the guest died.
        """
        seat = self._seat.share()
        try:
            return EnvWorker(self.config, seat)
        except BaseException:
            seat.leave()
            raise

    @property
    def pid(self) -> int | None:
        """The process's id; None until it has answered.

        It is that of this machine, but where sockets do not reach into sandboxes the one inside.
        """
        return None if self._channel is None else self._channel.pid

    def fileno(self) -> int:
        """The descriptor to poll for an answer. Another after a reset that forked."""
        return -1 if self._channel is None else self._channel.fileno()

    # Whole calls

    def reset(self, seed: int, timeout_s: float | None = 60.0) -> ResetReply:
        """Begin an episode.

        Args:
            seed: From 0 to 2**32 - 1.
            timeout_s: Seconds it may take; None for no limit.

        Raises:
            ResetTimeout: If it took longer; the process has been killed.
            EnvUnavailable: If the environment lacks something; says what and how to supply it.
            EnvError: If GEM raised, or the process died.
            SandboxLost: If the sandbox or the guest died; lease another worker.
            WireError: If what came back is no answer.
            SpecError: If there is no such environment, or the seed makes no sense.
        """
        self.send_reset(seed)
        reply = self.receive(timeout_s)
        assert isinstance(reply, ResetReply)
        return reply

    def step(self, action: str, timeout_s: float | None = 30.0) -> StepReply:
        """Take a turn; raises as ``reset``, but StepTimeout in the place of ResetTimeout."""
        self.send_step(action)
        reply = self.receive(timeout_s)
        assert isinstance(reply, StepReply)
        return reply

    # Their halves

    def send_reset(self, seed: int) -> None:
        """Ask for a reset, of a new process where there is none or it owes an answer."""
        request = wire.Reset(check_seed(seed))
        self._check_open()
        if self._channel is None or self._awaited is not None or not self._sent_reset(request):
            self._kill()
            self._fork()
            if not self._sent_reset(request):
                raise self._loss()

    def _sent_reset(self, request: wire.Reset) -> bool:
        """Send it, or return False if the process has died since it was last used."""
        assert self._channel is not None
        if not self._channel.is_there():
            return False
        # Set first: if something breaks in, half a message may have gone out.
        self._awaited = "reset"
        try:
            self._channel.send(request, _SEND_S)
        except OSError:
            return False
        return True

    def send_step(self, action: str) -> None:
        """Ask for a step."""
        if self._channel is None or self._awaited is not None:
            raise EnvError(
                "no episode is under way, or the last answer was not received: reset first",
                sandbox_id=self._sandbox.id,
            )
        self._awaited = "step"  # first, as above
        try:
            self._channel.send(wire.Step(action), _SEND_S)
        except wire.WireError as error:
            self._awaited = None
            raise SpecError(f"the action cannot be sent: {error}") from None
        except TimeoutError:
            self.expire(_SEND_S)
        except OSError:
            raise self._loss() from None

    def receive(self, timeout_s: float | None = None) -> ResetReply | StepReply:
        """Wait for the answer to what was sent; raises as ``reset`` and ``step``."""
        channel = self._awaiting()
        try:
            with self._using:
                reply = channel.receive(timeout_s) if channel.greeted else channel.greet(timeout_s)
            return self._accept(reply)
        except TimeoutError:
            raise self._late(timeout_s) from None
        except _NO_ANSWER as error:
            raise self._broken(error) from None

    def try_receive(self) -> ResetReply | StepReply | None:
        """Return the answer if it is there, else None at once; raises as ``receive``."""
        channel = self._awaiting()
        try:
            with self._using:
                reply = channel.take() if channel.greeted else channel.take_greeted()
            return None if reply is None else self._accept(reply)
        except _NO_ANSWER as error:
            raise self._broken(error) from None

    def expire(self, timeout_s: float | None = None) -> NoReturn:
        """Kill the process because it has taken too long.

        Raises:
            ResetTimeout: If a reset was under way.
            StepTimeout: If a step was.
        """
        raise self._late(timeout_s)

    def _late(self, timeout_s: float | None) -> RockGymError:
        what = self._awaited or "call"
        self._kill()
        return late(what, self.config.gem_id, timeout_s, self._sandbox.id)

    def close(self) -> None:
        """Kill the process and give up the place. From any thread; twice is fine."""
        closed, self._closed = self._closed, True
        if closed:
            return
        channel = self._channel
        if channel is not None:
            channel.kill()
            with self._using:
                channel.close()
        self._seat.leave()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=1, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<EnvWorker {self.config.gem_id} in {self._sandbox.id}>"

    # Inside

    def _fork(self) -> None:
        """Have the guest fork a process, and tell it what to make. Waits for neither."""
        channel = self._guest.fork(self.config.gem_id, self._is_preloadable())
        self._channel = channel
        self.forks += 1
        try:
            channel.send(self._make, _SEND_S)
        except OSError:
            raise self._loss() from None
        except BaseException:
            self._kill()
            raise

    def _is_preloadable(self) -> bool:
        """Whether it pays to import the environment's module before forking."""
        return not self._seat.alone and not self.config.lacks_data

    def _awaiting(self) -> EnvChannel:
        channel = self._channel
        if channel is None or self._awaited is None:
            raise EnvError("nothing was asked for; reset first", sandbox_id=self._sandbox.id)
        return channel

    def _broken(self, error: Exception) -> RockGymError:
        """Return what is to be raised when no valid answer came; the process is gone then."""
        if not isinstance(error, wire.WireError):
            return self._loss()
        self._kill()
        return WireError(
            f"the environment's process sent no valid answer: {error}",
            sandbox_id=self._sandbox.id,
        )

    def _accept(self, reply: wire.EnvReply) -> ResetReply | StepReply:
        # A use of the sandbox, as commands are.
        self._sandbox.last_use_s = time.monotonic()
        if type(reply) is wire.Stepped and self._awaited == "step":
            self._awaited = None
            return stepped(reply)
        if type(reply) is wire.Observed and self._awaited == "reset":
            self._awaited = None
            return observed(reply)
        if type(reply) is wire.Failed:
            self._awaited = None
            if reply.fatal:
                self._kill()
            raise error_of(reply, self._sandbox.id)
        raise wire.WireError(f"a {type(reply).__name__} came after a {self._awaited}")

    def _kill(self) -> None:
        self._awaited = None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.kill()
            channel.close()
            if self._seat.alone:
                self._guest.kill_strays()

    def _loss(self) -> RockGymError:
        """Tell a process that died alone from one that died with its sandbox."""
        forked = self._channel is None or self._channel.heard
        self._kill()
        self._check_open()
        return gone("the environment's process", forked, self._guest.answers(), self._sandbox.id)

    def _check_open(self) -> None:
        if self._closed:
            raise EnvError("the worker was closed; lease another one", sandbox_id=self._sandbox.id)

    def _drop(self) -> None:
        """Let go of everything, in a forked child: it is the parent's."""
        self._closed, self._awaited = True, None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
