"""The next episode, prepared by a second process while the policy thinks.

Which seed it will have is known: it is what an unseeded reset would draw from ``np_random``, looked
up without drawing. If another seed is asked for after all, what was prepared is not used.
"""

from __future__ import annotations

from collections.abc import Callable

from rock_gym.errors import RockGymError
from rock_gym.gem.worker import EnvWorker

__all__ = ["Speculation"]


class Speculation:
    """One environment's second process."""

    def __init__(self) -> None:
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
