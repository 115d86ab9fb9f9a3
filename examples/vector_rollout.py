"""Sixteen games at once: a rollout of each, gathered as a trainer wants it.

Episodes begin anew in the step that ends them; the last observation is in ``infos["final_obs"]``.
"""

from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np

import rock_gym  # noqa: F401  (importing it registers the environments)

NUM_ENVS, TURNS = 16, 30


@dataclass
class Episode:
    """What a trainer needs of one."""

    prompt: str
    actions: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    fault: str | None = None


envs = gym.make_vec("gem-game/GuessTheNumber-easy-v0", num_envs=NUM_ENVS, autoreset_mode="SameStep")
envs.action_space.seed(0)  # a language model would be the policy
observations, infos = envs.reset(seed=0)
playing = [Episode(prompt) for prompt in observations]
finished: list[Episode] = []
for _ in range(TURNS):
    actions = envs.action_space.sample()
    observations, rewards, terminated, truncated, infos = envs.step(actions)
    faults = infos.get("fault", [None] * NUM_ENVS)
    for number, episode in enumerate(playing):
        episode.actions.append(actions[number])
        episode.rewards.append(float(rewards[number]))
        if terminated[number] or truncated[number]:
            episode.fault = faults[number]
            finished.append(episode)
            playing[number] = Episode(observations[number])
envs.close()

kept = [
    episode for episode in finished if episode.fault is None
]  # a fault is nothing to learn from
returns = np.array([sum(episode.rewards) for episode in kept])
print(f"{len(kept)} episodes of {len(finished)} kept, {NUM_ENVS * TURNS} turns")
print(f"return {returns.mean():+.3f} on average, from {returns.min():+.2f} to {returns.max():+.2f}")
print(f"the first: {kept[0].actions} -> {kept[0].rewards}")
