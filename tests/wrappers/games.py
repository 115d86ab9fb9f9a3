"""Games to record: small, in this process, made by an id."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from rock_gym.errors import StepTimeout
from tests.envs.vector_games import Countdown

GAME = "rock-test/Countdown-v0"
FAULT = 913
MISTAKE = 914


class Faulty(Countdown):
    """Draws what it observes from its seed; one action has a fault, and another a mistake."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == FAULT:
            raise StepTimeout("the step took longer than 1 s", sandbox_id="sandbox-1")
        if action == MISTAKE:
            raise ZeroDivisionError("as told")
        return super().step(action)


if GAME not in gym.registry:
    gym.register(
        GAME,
        entry_point="tests.wrappers.games:Faulty",
        kwargs={"drawn": True},
        disable_env_checker=True,
    )
