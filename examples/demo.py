"""An episode of a GEM game inside a sandbox, with the boards shown.

Put a language model in ``choose`` and it is an agent. Without one it plays Sokoban by moves that
solve the board, and any other game that is named on the command line by moves drawn at random.
"""

import sys

import gymnasium as gym
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

import rock_gym

GAME, SEED = "gem-game/Sokoban-easy-v0", 14
SOLUTION = ("up", "right", "up", "left", "left", "down")
TURNS = len(SOLUTION)
WIDTH = 33


def choose(env: gym.Env[str, str], env_id: str, turn: int) -> str:
    """Answer the observation."""
    return rf"\boxed{{{SOLUTION[turn]}}}" if env_id == GAME else env.action_space.sample()


def play(console: Console, env_id: str = GAME) -> None:
    """Play one episode, or the first turns of it."""
    with gym.make(env_id) as env:
        observation, _ = env.reset(seed=SEED)
        title = Text(f"{env_id}: what the agent reads", "bold")
        console.print(Panel(observation.strip(), title=title, border_style="cyan"))
        boards, total, end = [], 0.0, "not over"
        for turn in range(TURNS):
            action = choose(env, env_id, turn)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            title = Text(f"{action} {float(reward):+.2f}", "bold")
            style = "green" if float(reward) > 0 else "dim"
            boards.append(Panel(observation.strip(), title=title, width=WIDTH, border_style=style))
            if terminated or truncated:
                end = "terminated" if terminated else "truncated"
                break
        sandbox = env.unwrapped.sandbox  # type: ignore[attr-defined]
        console.print(Columns(boards, padding=(0, 0)))
        console.print(f"{turn + 1} turns, return {total:+.2f}, {end}; all inside {sandbox.id}")


def main() -> None:
    """Play the game that is named on the command line."""
    console = Console(highlight=False)
    try:
        play(console, *sys.argv[1:2])
    except rock_gym.RockGymError as error:
        console.print(f"[red]{type(error).__name__}[/red]: {error}", markup=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
