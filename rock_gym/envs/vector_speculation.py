"""The next episode, prepared by a second process while the policy thinks.

Which seed it will have is known: it is what an unseeded reset would draw from ``np_random``, looked
up without drawing. If another seed is asked for after all, what was prepared is not used.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rock_gym.errors import RockGymError
from rock_gym.gem.worker import EnvWorker

__all__ = ["Pace", "Speculation"]

_THINKS_S = 0.002
_NEWEST_SHARE = 0.2


class Pace:
    """How long the policy thinks: the time from an answer to the next action.

    Attributes:
        thinks: Whether that is long enough for something to be prepared meanwhile. A policy that
            acts at once keeps all CPUs busy with the episodes that are played.
    """

    def __init__(self) -> None:
        self.thinks = True  # until it has shown that it does not
        self._average_s: float | None = None
        self._since_s: float | None = None

    def answered(self) -> None:
        """Note that the policy has got an answer."""
        self._since_s = time.monotonic()

    def acted(self) -> None:
        """Note that it acts."""
        since_s, self._since_s = self._since_s, None
        if since_s is None:
            return
        took_s = time.monotonic() - since_s
        average_s = took_s if self._average_s is None else self._average_s
        self._average_s = average_s + _NEWEST_SHARE * (took_s - average_s)
        self.thinks = self._average_s > _THINKS_S


class Speculation:
    """One environment's second process.

    Args:
        pace: What the policy does. If it does not think, nothing is prepared; None to prepare
            whatever it does.
    """

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace
        self._spare: EnvWorker | None = None
        self._seed: int | None = None
        self._swapped = False
        self._wanted = True

    def prepare(self, worker: EnvWorker | None, next_seed: Callable[[], int]) -> None:
        """Begin the episode after the one that has just begun in ``worker``."""
        self._swapped = False
        if worker is None or worker.alone or not self._wanted:
            # What runs actions gets no second process in its sandbox, nor a second sandbox.
            return
        if self._pace is not None and not self._pace.thinks:
            return
        seed = next_seed()
        try:
            if self._spare is None:
                self._spare = worker.twin()
            elif self._seed is not None:
                # Taken off its socket if it is there, or else the process would be killed.
                self._spare.try_receive()
            self._spare.send_reset(seed)
        except RockGymError:
            # It is only an attempt: the reset itself will find the same fault, and report it.
            self.close()
            return
        self._seed = seed

    def matches(self, seed: int, drawn: bool) -> bool:
        """Whether the episode of this seed has been prepared, or is about to be.

        Args:
            seed: The seed.
            drawn: Whether the environment drew it itself. While it does not, nothing is prepared.
        """
        self._swapped = False
        self._wanted = drawn or self._seed is None
        return self._spare is not None and seed == self._seed

    def swap(self, worker: EnvWorker) -> EnvWorker:
        """Take the prepared process, and leave the other one for the next time."""
        assert self._spare is not None
        spare, self._spare = self._spare, worker
        self._seed, self._swapped = None, True
        return spare

    def was_swapped(self) -> bool:
        """Whether the answer that is due is one that was prepared. Says so once."""
        swapped, self._swapped = self._swapped, False
        return swapped

    def close(self) -> None:
        """End the second process."""
        spare, self._spare, self._seed = self._spare, None, None
        if spare is not None:
            spare.close()
