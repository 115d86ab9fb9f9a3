"""One environment: make, reset, step, close. The game runs in a sandbox of its own."""

import gymnasium as gym

import rock_gym  # noqa: F401  (importing it registers the environments)

with gym.make("gem-game/GuessTheNumber-easy-v0") as env:
    observation, info = env.reset(seed=42)
    print(observation)
    low, high, done = 1, 10, False
    while not done:
        guess = (low + high) // 2
        observation, reward, terminated, truncated, info = env.step(f"\\boxed{{{guess}}}")
        print(f"{guess}: {observation.strip()} (reward {reward})")
        low, high = (guess + 1, high) if "higher" in observation else (low, guess - 1)
        done = terminated or truncated
