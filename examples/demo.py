"""An episode of a GEM game inside a sandbox, with the boards shown.

The agent walks at random; put a language model in ``choose`` and it is an agent.
"""

import sys

import gymnasium as gym
from rich.console import Console
from rich.panel import Panel

import rock_gym

TURNS = 6


def choose(env: gym.Env[str, str]) -> str:
    """Answer the observation: here with any legal move."""
    return env.action_space.sample()


def play(console: Console, env_id: str) -> None:
    """Play one episode, or the first turns of it."""
    with gym.make(env_id, render_mode="ansi") as env:
        observation, _ = env.reset(seed=7)
        console.print(Panel(observation.strip(), title=f"{env_id}: what the agent reads"))
        total = 0.0
        for turn in range(1, TURNS + 1):
            action = choose(env)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            title = f"turn {turn}: {action}   reward {reward:+.2f}"
            console.print(Panel(observation.strip(), title=title, highlight=False))
            if terminated or truncated:
                break
        sandbox = env.unwrapped.sandbox  # type: ignore[attr-defined]
        console.print(f"{turn} turns, return {total:+.2f}, all of it inside {sandbox.id}")


def main() -> None:
    """Play the game that is named on the command line."""
    env_id = sys.argv[1] if len(sys.argv) > 1 else "gem-game/Sokoban-easy-v0"
    console = Console(highlight=False)
    try:
        play(console, env_id)
    except rock_gym.RockGymError as error:
        console.print(f"[red]{type(error).__name__}[/red]: {error}", markup=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
