"""Errors of who plays: a call that the state of an episode does not allow."""

from __future__ import annotations

import gymnasium as gym

from rock_gym.errors import RockGymError

__all__ = ["EnvClosed", "EpisodeOver", "ResetNeeded"]


class ResetNeeded(RockGymError, gym.error.ResetNeeded):
    """Raised when step or render is called with no episode under way: call ``reset`` first."""


class EnvClosed(RockGymError, gym.error.ClosedEnvironmentError):
    """Raised when an environment is used after ``close``: make a new one."""


class EpisodeOver(ResetNeeded, AssertionError):
    """Raised when a finished episode is stepped and autoreset is disabled: reset it first."""
