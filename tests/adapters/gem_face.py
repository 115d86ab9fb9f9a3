"""Plays by GEM's face, in a process of its own: importing gem changes whoever does it."""

from __future__ import annotations

import json
import sys
from typing import Any

import gem

from rock_gym.adapters.gem import SandboxedEnv, register
from rock_gym.envs.texts import compose
from rock_gym.errors import RockGymError


def play(env_id: str, seed: int, moves: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Play an episode as ROLL does, by keywords."""
    register(env_id, **options)
    register(env_id, **options)
    env: Any = gem.make(f"rock:{env_id}", seed=7)
    try:
        observation, info = env.reset(seed=seed)
        seen, total = [compose(observation, info)], 0.0
        for move in moves:
            observation, reward, _, _, info = env.step(action=move)
            seen.append(compose(observation, info))
            total += reward
        return {"seen": seen, "total": total, "max_turns": env.max_turns}
    except RockGymError as error:
        return {"error": type(error).__name__}
    finally:
        env.close()


def spawn(env_id: str, seed: int, moves: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Have a second one go on from where the first is."""
    env = SandboxedEnv(env_id, **options)
    env.reset(seed=seed)
    env.step(moves[0])
    other = env.spawn(same_state=True)
    both = [each.step(moves[1]) for each in (env, other)]
    told = {"same": both[0] == both[1], "move": env.sample_random_action()}
    env.close()
    other.close()
    return told


if __name__ == "__main__":
    name, given = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps({"play": play, "spawn": spawn}[name](**given)))
