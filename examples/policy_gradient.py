"""A policy gradient in numpy that learns to halve: 64 games at once, from hints in plain text.

The policy is a table: between which two numbers the secret must lie gives the odds of each guess.
It begins at random and ends with something like a binary search, within seconds.
``scripts/learning_picture.py`` draws the curve.
"""

import re

import gymnasium as gym
import numpy as np

import rock_gym  # noqa: F401  (importing it registers the environments)

NUM_ENVS, NUMBERS, LEARNING_RATE = 64, 10, 0.1


def odds(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def narrow(low: int, high: int, observation: str) -> tuple[int, int]:
    """Read a hint: where the secret may still be."""
    if not (hint := re.search(r"is (higher|lower) than (\d+)", observation)):
        return low, high
    number = int(hint[2])
    return (max(low, number + 1), high) if hint[1] == "higher" else (low, min(high, number - 1))


def train(seed: int, rounds: int = 160) -> list[float]:
    """Play and learn; returns the share of games won in each round."""
    rng = np.random.default_rng(seed)
    logits = np.zeros((NUMBERS + 1, NUMBERS + 1, NUMBERS))  # by lowest and highest number
    baseline = np.zeros((NUMBERS + 1, NUMBERS + 1))
    envs = gym.make_vec(
        "gem-game/GuessTheNumber-easy-v0",
        num_envs=NUM_ENVS,
        envs_per_process=16,
        autoreset_mode="Disabled",
    )
    curve = []
    for number in range(rounds):
        envs.reset(seed=seed * 1_000_003 + number * NUM_ENVS)
        low, high = np.ones(NUM_ENVS, int), np.full(NUM_ENVS, NUMBERS)
        returns, valid, won = np.zeros(NUM_ENVS), np.ones(NUM_ENVS, bool), np.zeros(NUM_ENVS, bool)
        playing, turns = np.arange(NUM_ENVS), []
        while playing.size:
            at = low[playing], high[playing]
            chances = odds(logits[at])
            guesses = (chances.cumsum(axis=1) > rng.random((playing.size, 1))).argmax(axis=1)
            turns.append((playing, at, guesses, chances))
            envs.send([f"\\boxed{{{guess + 1}}}" for guess in guesses], playing)  # type: ignore[attr-defined]
            observations, rewards, terminated, truncated, infos = envs.recv()  # type: ignore[attr-defined]
            answered = infos["env_id"]
            returns[answered] += rewards
            won[answered] = rewards == 1
            if "fault" in infos:
                valid[answered[infos["_fault"]]] = False  # nothing to learn from
            for row, env in enumerate(answered):
                low[env], high[env] = narrow(low[env], high[env], observations[row])
            playing = np.sort(answered[~(terminated | truncated)])
        curve.append(float(won[valid].mean()))
        spread = max(returns.std(), 0.1)
        for played, at, guesses, chances in turns:
            better = (returns[played] - baseline[at]) * valid[played]
            gradient = (np.eye(NUMBERS)[guesses] - chances) * better[:, None] / spread
            np.add.at(logits, at, LEARNING_RATE * gradient)
            np.add.at(baseline, at, 0.02 * better)
    envs.close()
    return curve


if __name__ == "__main__":
    curve = train(seed=0)
    for start in range(0, len(curve), 20):
        print(f"after {start * NUM_ENVS:5} games: {np.mean(curve[start : start + 20]):4.0%} won")
