"""Plays environments by ROCK's own client. Run by the interpreter that has it; prints JSON."""

import json
import sys

import rock


def play(env_id: str, seed: int, actions: list[str]) -> list[object]:
    env = rock.make(env_id)
    turns: list[object] = [env.reset(seed=seed)]
    for action in actions:
        turns.append(env.step(action))
        if turns[-1][2] or turns[-1][3]:
            break
    env.close()
    return turns


def why(call) -> str:
    try:
        call()
    except Exception as error:
        return str(error)
    return "it worked"


wanted = json.loads(sys.argv[1])
env = rock.make(wanted["env_id"])
failures = {
    "make": why(lambda: rock.make("game:Sokobann-v0-easy")),
    "step": why(lambda: env.step("x")),
}
env.reset()  # without a seed
env.close()
turns = play(wanted["env_id"], wanted["seed"], wanted["actions"])
print(json.dumps({"turns": turns, "failures": failures}))
