"""Many environments as one: a gymnasium vector environment in which each has its own pace.

All sends go out before any answer is awaited, and answers are taken as they come, by one wait over
all sockets. Whoever does not want to wait for the slowest sends and receives by parts.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from rock_gym.envs.misuse import EnvClosed, EpisodeOver, ResetNeeded
from rock_gym.envs.vector_arguments import (
    check_mode,
    check_steps,
    pick_actions,
    pick_numbers,
    split_options,
    spread_seed,
)
from rock_gym.envs.vector_async import AsyncHalves
from rock_gym.envs.vector_calls import Calls
from rock_gym.envs.vector_infos import merge_infos
from rock_gym.envs.vector_players import Cast, cast_functions, cast_gem
from rock_gym.envs.vector_poller import Poller
from rock_gym.envs.vector_slots import Player, Slot
from rock_gym.envs.vector_spaces import (
    batch_actions,
    batch_observations,
    check_spaces,
    make_batcher,
)
from rock_gym.envs.vector_turns import Turn, Turns
from rock_gym.errors import SpecError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["SandboxVectorEnv"]

_CLOSE_S = 4.0

Batch = tuple[Any, Any, Any, Any, dict[str, Any]]


class SandboxVectorEnv(Calls, AsyncHalves, Turns, VectorEnv[Any, Any, Any]):  # type: ignore[misc]
    """GEM environments in sandboxes, or any gymnasium environments in threads, as one.

    A fault of one environment (a limit, a crash, a sandbox that died) ends its episode as
    truncated, with reward 0.0 and its kind in ``infos["fault"]``; it touches no other, and the next
    episode begins in a fresh process or sandbox. What is wrong for all alike, such as a backend
    that does not work here, is raised.

    Infos are merged without loss: where the values of a key have no common type that holds them
    all, their array is one of objects.

    Args:
        env_fns: Functions that make gymnasium environments, each run in a thread of its own. Then
            all that concerns GEM and sandboxes is left out.
        num_envs: How many environments.
        gem_id: The GEM id of all of them.
        gem_ids: One GEM id for each, or for each group.
        autoreset_mode: When a finished episode is followed by the next: ``"NextStep"``,
            ``"SameStep"`` or ``"Disabled"``, as gymnasium has them.
        max_episode_steps: After how many steps an episode is truncated. None or -1 for never.
        group_size: How many environments in a row share each seed, and so begin the same episode.
        on_fault: ``"truncate"``, or ``"raise"``; None for the former with sandboxes and the latter
            with ``env_fns``.
        speculative_reset: Whether to prepare each next episode in a second process while this one
            is played; seeds stay what they are. None for where resets are known to be slow, and
            while the policy takes its time between answers and actions.
        envs_per_process: How many environments share a process, each with random numbers of its
            own. More than 1 is faster by far where steps are short; but they take turns, so that a
            slow one delays the others, and what kills their process ends the episodes of all of
            them. Refused where actions are executed.
        copy: Whether observations are the caller's own, or may be overwritten by the next ones.
        observation_mode: As gymnasium's vectorizers have it. Only with ``env_fns``.
        **kwargs: As ``GemEnv`` takes them. With ``env_fns``: ``step_timeout`` and
            ``reset_timeout``, by default none; ``max_concurrency``; and what gymnasium's
            vectorizers take about processes, which threads have no use for.

    Raises:
        SpecError: If an argument makes no sense.
    """

    def __init__(
        self,
        env_fns: Iterable[Callable[[], gym.Env[Any, Any]]] | None = None,
        *,
        num_envs: int | None = None,
        gem_id: str | None = None,
        gem_ids: Sequence[str] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        group_size: int = 1,
        on_fault: str | None = None,
        speculative_reset: bool | None = None,
        envs_per_process: int = 1,
        copy: bool = True,
        observation_mode: str | tuple[gym.Space[Any], gym.Space[Any]] = "same",
        **kwargs: Any,
    ) -> None:
        self.closed = True  # until there is something to close
        self.autoreset_mode = check_mode(autoreset_mode)
        limit = check_steps(max_episode_steps)
        if on_fault not in (None, "truncate", "raise"):
            raise SpecError(f"on_fault must be 'truncate' or 'raise', not {on_fault!r}")
        self._poller = Poller()
        try:
            if env_fns is not None:
                about_gem = num_envs, gem_id, gem_ids, speculative_reset, envs_per_process
                if about_gem != (None, None, None, None, 1):
                    raise SpecError("env_fns= goes with nothing that is about GEM")
                cast = cast_functions(self._poller, list(env_fns), **kwargs)
            else:
                cast = cast_gem(
                    self._poller,
                    gem_id,
                    gem_ids,
                    num_envs,
                    group_size,
                    speculative_reset,
                    envs_per_process,
                    kwargs,
                )
        except BaseException:
            self._poller.close()
            raise
        self.closed = False
        self._group_size = group_size
        self._pid = os.getpid()
        self._begin(cast, limit, on_fault)
        try:
            self._set_spaces(observation_mode, copy)
        except BaseException:
            self.close()
            raise

    def _begin(self, cast: Cast, limit: int | None, on_fault: str | None) -> None:
        raises = on_fault == "raise" or (on_fault is None and not cast.texts)
        blank = "" if cast.texts else None
        self._players: tuple[Player, ...] = cast.players
        self._leases = cast.leases
        self._pace = cast.pace
        self._texts = cast.texts
        self._slots = [
            Slot(player, self.autoreset_mode, limit, raises, blank) for player in cast.players
        ]
        self.num_envs = len(self._slots)
        self._ready: list[int] = []
        self._awaited = 0
        # Threads do not end of themselves when this object is forgotten.
        self._finalizer = weakref.finalize(self, _abandon, self._players, self._poller)

    def _set_spaces(self, mode: Any, copy: bool) -> None:
        envs = self.envs
        self.metadata = {**envs[0].metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = envs[0].render_mode
        self.observation_space, self.single_observation_space = batch_observations(envs, mode)
        self.single_action_space = envs[0].action_space
        check_spaces(envs, self.single_observation_space, self.single_action_space, mode == "same")
        self.action_space = batch_actions(envs)
        self._batch_observations = make_batcher(self.single_observation_space, copy)

    # All at once

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every environment, or in those of ``options["reset_mask"]``.

        What was sent to them and not received is given up.

        Args:
            seed: One for all, to which each environment (or group) adds its number, or one for
                each, or None to have each draw its own.
            options: What the environments are given, but for ``reset_mask``. It is not changed.

        Raises:
            RockGymError: If no environment could be reset, or what stops one stops all.
        """
        result: tuple[Any, dict[str, Any]] = self.finish(self.begin_reset(seed, options))
        return result

    def begin_reset(
        self,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> Turn:
        """As ``reset``, but wait for nothing."""
        self._check_open()
        mask, options = split_options(options, self.num_envs)
        seeds = spread_seed(seed, self.num_envs, self._group_size)
        numbers = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        self._send_resets(numbers, seeds, options)
        slots = self._slots
        return Turn(
            lambda: not any(slots[number].pending for number in numbers),
            lambda: self._finish_reset(numbers),
        )

    def _send_resets(
        self, numbers: Sequence[int], seeds: Sequence[int | None], options: dict[str, Any] | None
    ) -> None:
        given_up = set(numbers)
        self._ready = [number for number in self._ready if number not in given_up]
        for number in numbers:
            slot = self._slots[number]
            self._awaited += not slot.pending
            self._note(number, slot, slot.send_reset(seeds[number], options))
        self._poller.flush()

    def _finish_reset(self, numbers: Sequence[int]) -> tuple[Any, dict[str, Any]]:
        slots = self._slots
        taken = set(numbers)
        self._ready = [number for number in self._ready if number not in taken]
        failures = [slots[number].failure for number in numbers]
        for error in [slots[number].error for number in numbers]:
            if error is not None:
                raise error
        if failures[0] is not None and all(failure is not None for failure in failures):
            raise failures[0]
        if any(slot.obs is None for slot in slots):
            raise ResetNeeded("environments outside of reset_mask were never reset: reset all once")
        self._pace.answered()
        infos = [slot.info if number in taken else {} for number, slot in enumerate(slots)]
        return self._batch_observations([slot.obs for slot in slots]), merge_infos(infos)

    def step(self, actions: Any) -> Batch:
        """Take a turn in every environment.

        Raises:
            gymnasium.error.AlreadyPendingCallError: If something was sent and not received.
            EpisodeOver: If an episode is over and autoreset is disabled.
            ResetNeeded: If there was no reset yet.
            RockGymError: If what stops one environment stops all, or with ``on_fault="raise"``.
        """
        batch: Batch = self.finish(self.begin_step(actions))
        return batch

    def begin_step(self, actions: Any) -> Turn:
        """As ``step``, but wait for nothing."""
        self._check_idle("step")
        self.send(actions)
        ready, count = self._ready, self.num_envs
        return Turn(lambda: len(ready) == count, lambda: self._take(range(count)))

    # By parts

    def send(self, actions: Any, env_ids: Sequence[int] | None = None) -> None:
        """Begin a turn in some environments. ``recv`` brings what comes of it.

        Where an episode is over, the action is ignored and the next one begins.

        Args:
            actions: One for each of them.
            env_ids: Their numbers; None for all.

        Raises:
            gymnasium.error.AlreadyPendingCallError: If one has not been received since.
            EpisodeOver: If an episode is over and autoreset is disabled.
            ResetNeeded: If there was no reset yet.
            SpecError: If actions and numbers make no sense.
        """
        self._check_open()
        numbers = pick_numbers(env_ids, self.num_envs)
        space = None if self._texts else self.action_space
        given = pick_actions(actions, space, len(numbers))
        self._check_turns(numbers)
        self._pace.acted()
        slots = self._slots
        self._awaited += len(numbers)
        for number, action in zip(numbers, given, strict=True):
            slot = slots[number]
            if slot.send_step(action):
                self._note(number, slot, True)
            elif slot.player.deadline < self.due_s:
                self.due_s = slot.player.deadline
        self._poller.flush()

    def send_reset(
        self,
        env_ids: Sequence[int] | None = None,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Begin an episode in some environments. ``recv`` brings it, with reward 0.

        Args:
            env_ids: Their numbers; None for all.
            seed: As for ``reset``; a list has one for each environment of the vector.
            options: As for ``reset``, without ``reset_mask``.
        """
        self._check_open()
        numbers = pick_numbers(env_ids, self.num_envs)
        self._send_resets(numbers, spread_seed(seed, self.num_envs, self._group_size), options)

    def recv(self, min_envs: int | None = None, timeout: float | None = None) -> Batch:
        """Return what has come of what was sent, once enough has.

        Args:
            min_envs: How many environments to wait for; None for all that were sent to.
            timeout: Seconds after which to return what there is, which may be nothing.

        Returns:
            As ``step``, of as many rows as answered. ``infos["env_id"]`` has their numbers.

        Raises:
            gymnasium.error.NoAsyncCallError: If nothing was sent.
            RockGymError: As ``step``. What others answered is kept for the next call.
        """
        turn = self.begin_recv(min_envs)
        until = None if timeout is None else time.monotonic() + timeout
        self._gather(turn.is_there, until, whole=min_envs is None)
        batch: Batch = turn.take()
        return batch

    def begin_recv(self, min_envs: int | None = None) -> Turn:
        """As ``recv``, but wait for nothing. ``take`` brings what there is, also if not enough."""
        self._check_open()
        ready = self._ready
        if not ready and not self._awaited:
            raise gym.error.NoAsyncCallError("recv() without anything sent: send() first", "recv")
        wanted = len(ready) + self._awaited
        if min_envs is not None:
            wanted = min(min_envs, wanted)
        return Turn(lambda: len(ready) >= wanted, self._take_ready)

    def _take_ready(self) -> Batch:
        numbers = sorted(self._ready)
        obs, rewards, terminated, truncated, infos = self._take(numbers)
        infos["env_id"] = np.array(numbers, dtype=np.int64)
        infos["_env_id"] = np.ones(len(numbers), dtype=np.bool_)
        return obs, rewards, terminated, truncated, infos

    # Inside

    def _take(self, numbers: Sequence[int]) -> Batch:
        """Make a batch of rows that are there, or raise the error of one and keep the others."""
        slots = [self._slots[number] for number in numbers]
        for number, slot in zip(numbers, slots, strict=True):
            if slot.error is not None:
                error, slot.error = slot.error, None
                self._ready.remove(number)
                raise error
        self._ready.clear()
        self._pace.answered()
        return (
            self._batch_observations([slot.obs for slot in slots]),
            np.array([slot.reward for slot in slots], dtype=np.float64),
            np.array([slot.terminated for slot in slots], dtype=np.bool_),
            np.array([slot.truncated for slot in slots], dtype=np.bool_),
            merge_infos([slot.info if slot.final is None else slot.full_info() for slot in slots]),
        )

    def _check_open(self) -> None:
        if self.closed:
            raise EnvClosed(f"{self!r} is closed: make a new one")
        if self._pid != os.getpid():
            raise EnvClosed(f"{self!r} is of the process that this one was forked from")

    def _check_idle(self, what: str) -> None:
        self._check_open()
        if self._awaited or self._ready or self._begun is not None:
            raise gym.error.AlreadyPendingCallError(
                f"{what}() while answers are due or were not received: recv() them first", "send"
            )

    def _check_turns(self, numbers: Sequence[int]) -> None:
        disabled = self.autoreset_mode is AutoresetMode.DISABLED
        unreceived = self._ready
        for number in numbers:
            slot = self._slots[number]
            if slot.pending or number in unreceived:
                raise gym.error.AlreadyPendingCallError(
                    f"environment {number} has not been received since it was sent to", "send"
                )
            if disabled and slot.over:
                raise EpisodeOver(
                    f"the episode of environment {number} is over: reset it by "
                    'options={"reset_mask": ...}, as autoreset is disabled'
                )
            if slot.obs is None and self._texts:
                raise ResetNeeded("step() without an episode under way: call reset() first")

    def __enter__(self) -> SandboxVectorEnv:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close all environments and give up their sandboxes.

        Args:
            timeout: Seconds to wait for environments that are still at work; at most four.
            terminate: Whether not to wait at all.
        """
        if self._pid != os.getpid():
            return
        self._finalizer.detach()
        self._warn_of_halves()
        limit = _CLOSE_S if timeout is None else min(timeout, _CLOSE_S)
        deadline = time.monotonic() + (0.0 if terminate else limit)
        for player in self._players:
            player.close()
        for player in self._players:
            player.join(max(deadline - time.monotonic(), 0.0))
        if self._leases is not None:
            self._leases.join(max(deadline - time.monotonic(), 0.0))
        self._poller.close()


def _abandon(players: Sequence[Any], poller: Poller) -> None:
    for player in players:
        player.abandon()
    poller.close()
