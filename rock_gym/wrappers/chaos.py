"""Wrappers to try a trainer with: faults where there would be none, at moments that a seed draws.

``Chaos`` stands around one environment, of ours or not; ``VectorChaos`` around a
``SandboxVectorEnv``, which runs any environments with ``env_fns``. They start nothing.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rock_gym.envs.misuse import EpisodeOver, ResetNeeded
from rock_gym.envs.vector_env import SandboxVectorEnv
from rock_gym.errors import (
    EnvError,
    PoolExhausted,
    ResetTimeout,
    RockGymError,
    SandboxLost,
    SpecError,
    StepTimeout,
)

__all__ = ["Chaos", "VectorChaos"]

_MADE_UP = "this fault was made up by Chaos"
# What may happen in a step, and in a reset, by the names that infos["fault"] has for it.
STEP_FAULTS: dict[str, type[RockGymError]] = {
    "step_timeout": StepTimeout,
    "sandbox_lost": SandboxLost,
    "env_error": EnvError,
}
RESET_FAULTS: dict[str, type[RockGymError]] = {
    "reset_timeout": ResetTimeout,
    "pool_exhausted": PoolExhausted,
    "sandbox_lost": SandboxLost,
}


class Chaos(gym.Wrapper[Any, Any, Any, Any]):
    """Raise errors in some steps and resets of one environment, as real faults do.

    A step that is hit does not reach the environment. The episode has ended with it: until the
    next ``reset`` each step raises ``ResetNeeded``, as in a ``GemEnv``. A reset that is hit can be
    tried again at once. What happens when depends on the seed and on the turns taken alone: a step
    with no episode under way is never hit.

    Args:
        env: What to wrap.
        seed: What the faults are drawn from.
        step_rate: How likely a step fails.
        reset_rate: How likely a reset fails.
        kinds: Which faults there are, as ``infos["fault"]`` names them; None for all.

    Raises:
        SpecError: If a rate is no probability, or a kind is not known.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        seed: int = 0,
        step_rate: float = 0.05,
        reset_rate: float = 0.02,
        kinds: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(env)
        self._dice = _Dice(seed, step_rate, reset_rate, kinds)
        self._over = False  # by a fault
        self._playing = False

    @property
    def faults(self) -> dict[str, int]:
        """How often each kind has struck."""
        return dict(self._dice.struck)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, or fail to; see ``gymnasium.Env.reset``."""
        error = self._dice.reset()
        if error is not None:
            self._over = True
            raise error
        self._over = self._playing = False
        begun = self.env.reset(seed=seed, options=options)
        self._playing = True
        return begun

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a turn, or fail to; see ``gymnasium.Env.step``."""
        if self._over:
            raise ResetNeeded("the episode ended by a fault: call reset first")
        error = self._dice.step() if self._playing else None
        if error is not None:
            self._over = True
            raise error
        self._playing = False  # if it raises: real faults end episodes, too
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._playing = not (terminated or truncated)
        return obs, reward, terminated, truncated, info


class VectorChaos(gym.vector.VectorWrapper):
    """End some episodes of a vector by faults that were none, as a ``SandboxVectorEnv`` ends them.

    A row that is hit has ``truncated=True``, reward 0.0 and the kind in ``infos["fault"]``, with
    its mask in ``infos["_fault"]``; its environment has taken its turn. The next episode begins as
    the vector's autoreset mode says.

    Args:
        env: What to wrap. Its mode is ``NEXT_STEP`` or ``DISABLED``.
        seed: What the faults are drawn from.
        step_rate: How likely a row is hit in a step.
        kinds: Which faults there are; None for all that a step may have.

    Raises:
        SpecError: As ``Chaos``; and for another vector, or one in another mode.
    """

    def __init__(
        self,
        env: SandboxVectorEnv,
        *,
        seed: int = 0,
        step_rate: float = 0.05,
        kinds: tuple[str, ...] | None = None,
    ) -> None:
        if not isinstance(env, SandboxVectorEnv):
            raise SpecError(
                "VectorChaos goes around a SandboxVectorEnv itself, below other wrappers; "
                "make one of any environments by SandboxVectorEnv(env_fns=[...])"
            )
        mode = env.metadata["autoreset_mode"]
        if mode is gym.vector.AutoresetMode.SAME_STEP:
            raise SpecError(
                "VectorChaos cannot begin an episode within a step: make the vector with "
                "autoreset_mode='NextStep' or 'Disabled'"
            )
        super().__init__(env)
        self._sandboxed = env
        self._disabled = mode is gym.vector.AutoresetMode.DISABLED
        self._dice = _Dice(seed, step_rate, 0.0, kinds)
        # The rows that a fault has ended, and those that have ended anyhow.
        self._hit = np.zeros(env.num_envs, dtype=np.bool_)
        self._over = np.zeros(env.num_envs, dtype=np.bool_)

    @property
    def faults(self) -> dict[str, int]:
        """How often each kind has struck."""
        return dict(self._dice.struck)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; see ``gymnasium.vector.VectorEnv.reset``."""
        mask = (options or {}).get("reset_mask")
        begun = slice(None) if mask is None else np.asarray(mask, dtype=np.bool_)
        self._hit[begun] = self._over[begun] = False
        return self._sandboxed.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a turn in every environment, and hit some; see ``SandboxVectorEnv.step``."""
        if self._disabled and self._hit.any():
            raise EpisodeOver(
                f"the episodes of rows {np.flatnonzero(self._hit).tolist()} ended by a fault: "
                "reset them first"
            )
        begins = self._hit.copy()
        playing = np.flatnonzero(~begins)
        envs = self._sandboxed
        if playing.size:
            given = [action for action, new in zip(actions, begins, strict=True) if not new]
            envs.send(given, playing.tolist())
        if begins.any():
            envs.send_reset(np.flatnonzero(begins).tolist())
        obs, rewards, terminated, truncated, infos = envs.recv()
        infos.pop("env_id", None)
        infos.pop("_env_id", None)
        self._hit = self._strike(~begins & ~self._over, infos)
        rewards[self._hit] = 0.0
        terminated[self._hit] = False
        truncated[self._hit] = True
        self._over = (terminated | truncated) & ~self._hit
        return obs, rewards, terminated, truncated, infos

    def _strike(self, may_be: Any, infos: dict[str, Any]) -> Any:
        """Draw who is hit, and note it in the infos. What has failed by itself is left alone."""
        hit = np.zeros(self.num_envs, dtype=np.bool_)
        failed = infos.get("_fault", hit)
        for row in np.flatnonzero(may_be):
            kind = None if failed[row] else self._dice.step_kind()
            if kind is None:
                continue
            hit[row] = True
            infos.setdefault("fault", np.full(self.num_envs, None, dtype=object))[row] = kind
            infos.setdefault("_fault", np.zeros(self.num_envs, dtype=np.bool_))[row] = True
        return hit


class _Dice:
    """Draws faults."""

    def __init__(
        self, seed: int, step_rate: float, reset_rate: float, kinds: tuple[str, ...] | None
    ) -> None:
        for rate in (step_rate, reset_rate):
            if not 0.0 <= rate <= 1.0:
                raise SpecError(f"a rate of faults lies between 0 and 1, {rate!r} does not")
        unknown = set(kinds or ()) - STEP_FAULTS.keys() - RESET_FAULTS.keys()
        if unknown:
            known = sorted({*STEP_FAULTS, *RESET_FAULTS})
            raise SpecError(f"no such faults: {sorted(unknown)}; there are {', '.join(known)}")
        self._random = np.random.default_rng(seed)
        self._rates = step_rate, reset_rate
        self._kinds = [
            [kind for kind in faults if kinds is None or kind in kinds]
            for faults in (STEP_FAULTS, RESET_FAULTS)
        ]
        self.struck: dict[str, int] = {}

    def step_kind(self) -> str | None:
        """Draw what becomes of a step; None if nothing does."""
        return self._draw(0)

    def step(self) -> RockGymError | None:
        """Draw the error of a step."""
        kind = self._draw(0)
        return STEP_FAULTS[kind](_MADE_UP) if kind else None

    def reset(self) -> RockGymError | None:
        """Draw the error of a reset."""
        kind = self._draw(1)
        return RESET_FAULTS[kind](_MADE_UP) if kind else None

    def _draw(self, which: int) -> str | None:
        chance, choice = self._random.random(2)
        kinds = self._kinds[which]
        if chance >= self._rates[which] or not kinds:
            return None
        kind = kinds[int(choice * len(kinds))]
        self.struck[kind] = self.struck.get(kind, 0) + 1
        return kind
