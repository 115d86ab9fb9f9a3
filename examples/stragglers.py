"""A policy that never waits for the slowest: it answers whoever is ready, four at a time.

``send`` begins turns, ``recv(min_envs=4)`` brings the first four that are done, whichever they are.
The environment is one of your own: any module that registers with GEM can be run in sandboxes.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from rock_gym.envs import SandboxVectorEnv

TOOL = """
import time
import gem

class Tool(gem.Env):
    "Every turn runs a tool. One in sixteen has one that is slow."

    def reset(self, seed=None):
        super().reset(seed)
        self.pace_s = 0.5 if seed % 16 == 15 else 0.005
        return "call the tool", {}

    def step(self, action):
        time.sleep(self.pace_s)
        return f"the tool says: {action}", 1.0, False, False, {}

gem.register("my:Tool-v0", Tool)
"""

NUM_ENVS, TURNS = 16, 320

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "my_tool.py").write_text(TOOL)
    Path(folder).chmod(0o755)  # sandboxes run as another user
    with SandboxVectorEnv(
        gem_ids=["my:Tool-v0"] * NUM_ENVS,
        imports=["my_tool"],
        python_path=[folder],
        envs_per_sandbox=NUM_ENVS,  # as it does not run what an action says
    ) as envs:
        observations, _ = envs.reset(seed=0)
        begun_s = time.perf_counter()
        envs.step(["ping"] * NUM_ENVS)
        step_s = time.perf_counter() - begun_s

        turns, batches = np.zeros(NUM_ENVS, dtype=int), 0
        begun_s = time.perf_counter()
        envs.send(["ping"] * NUM_ENVS)
        while turns.sum() < TURNS:
            observations, _, _, _, infos = envs.recv(min_envs=4)
            numbers = infos["env_id"]  # whose answers these are
            turns[numbers] += 1
            batches += 1
            answers = [f"ping {turns[number]}" for number in numbers]  # a model's, in one batch
            envs.send(answers, numbers)
        took_s = time.perf_counter() - begun_s

print(f"step():        {NUM_ENVS / step_s:5.0f} turns/s, as each waits for the slowest")
print(f"send(), recv(): {turns.sum() / took_s:4.0f} turns/s, in {batches} batches")
print(f"turns of each:  {turns.tolist()}")
