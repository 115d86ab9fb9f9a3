"""Groups for GRPO: the same episode several times, so that answers can be compared.

``group_size=4`` gives each four environments in a row the same seed, and so the same first board.
The advantage of an episode is its return against the others of its group.
"""

import gymnasium as gym
import numpy as np

import rock_gym  # noqa: F401  (importing it registers the environments)

GROUPS, GROUP_SIZE = 4, 4
NUM_ENVS = GROUPS * GROUP_SIZE

envs = gym.make_vec(
    "gem-game/GuessTheNumber-easy-v0",
    num_envs=NUM_ENVS,
    group_size=GROUP_SIZE,
    autoreset_mode="Disabled",
)
envs.action_space.seed(1)
for round_number in range(2):
    observations, _ = envs.reset(seed=100 + round_number * GROUPS)
    grouped = np.array(observations, dtype=object).reshape(GROUPS, GROUP_SIZE)
    assert (grouped == grouped[:, :1]).all()  # each group reads the same

    returns, valid = np.zeros(NUM_ENVS), np.ones(NUM_ENVS, dtype=bool)
    playing = list(range(NUM_ENVS))
    while playing:
        moves = envs.action_space.sample()  # a model samples its answers here
        envs.send([moves[number] for number in playing], playing)  # type: ignore[attr-defined]
        _, rewards, terminated, truncated, infos = envs.recv()  # type: ignore[attr-defined]
        numbers = infos["env_id"]
        returns[numbers] += rewards
        if "fault" in infos:
            valid[numbers[infos["_fault"]]] = False  # a fault of the machinery is no bad answer
        playing = numbers[~(terminated | truncated)].tolist()

    by_group = np.where(valid, returns, np.nan).reshape(GROUPS, GROUP_SIZE)
    spread = np.nanstd(by_group, axis=1, keepdims=True)
    advantages = (by_group - np.nanmean(by_group, axis=1, keepdims=True)) / (spread + 1e-6)
    print(f"round {round_number}")
    for group in range(GROUPS):
        print(f"  returns {by_group[group].round(2)}  advantages {advantages[group].round(2)}")
envs.close()
