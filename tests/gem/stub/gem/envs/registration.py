import itertools
import sys
import types


class Echo:
    def __init__(self, **kwargs):
        pass

    def reset(self, seed=None):
        return f"reset with {seed}", {}

    def step(self, action):
        if action == "hang":
            sum(itertools.repeat(0))
        if action == "bytecode":
            action = sys.modules["gem"].__spec__.cached
        return action, 0.0, False, False, {}


ENV_REGISTRY = {
    gem_id: types.SimpleNamespace(id=gem_id, entry_point=Echo, kwargs={})
    for gem_id in ("game:GuessTheNumber-v0-easy", "game:Sudoku-v0-easy", "rg:gcd", "rg:n_queens")
}


def register(env_id, entry_point, **kwargs):
    ENV_REGISTRY[env_id] = types.SimpleNamespace(id=env_id, entry_point=entry_point, kwargs=kwargs)


def make(env_id, **kwargs):
    return ENV_REGISTRY[env_id].entry_point(**kwargs)
