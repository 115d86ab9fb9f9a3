"""Environments in the shapes that trainers of language models want, a module for each trainer.

======================== ===========================================================
``adapters.trl``         ``environment_factory`` of TRL's ``GRPOTrainer``
``adapters.verl``        a ``BaseInteraction`` of verl
``adapters.skyrl``       a ``BaseTextEnv`` of SkyRL
``adapters.openrlhf``    an ``AgentExecutor`` of OpenRLHF
``adapters.gem``         a ``gem.Env``, for ROLL, Oat and whatever else calls ``gem.make``
======================== ===========================================================

Each but TRL's imports its trainer, which has to be installed, and nothing else does. All of them
play by ``Episode``: a fault of the machinery is played over, and where that does not help it is
raised. It is never a reward, and never an observation.
"""

from rock_gym.adapters.episode import Episode, Turn, first_observations

__all__ = ["Episode", "Turn", "first_observations"]
