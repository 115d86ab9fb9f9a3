"""A bit of everything that users do, by whatever interpreter runs this. Prints what it has seen.

Run outside of the repository with the installed package, so that it finds all that it needs there.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym

import rock_gym
from rock_gym.wrappers import Record, Replay, rerun, write_page

GUESS = "gem-game/GuessTheNumber-easy-v0"
# What is imported for the first time is compiled, and other tests have the processors meanwhile.
PATIENT: dict[str, Any] = {"reset_timeout": 240.0}


def environments() -> None:
    with gym.make(GUESS, render_mode="rgb_array", **PATIENT) as env:
        first, _ = env.reset(seed=3)
        assert env.step("\\boxed{1}")[0] != first
        frame: Any = env.render()
        assert frame.ndim == 3
        assert env.reset(seed=3)[0] == first
    envs = gym.make_vec(GUESS, num_envs=4, autoreset_mode="SameStep", envs_per_process=2)
    envs.action_space.seed(0)
    envs.reset(seed=0)
    for _ in range(6):
        envs.step(envs.action_space.sample())
    envs.close()


def words() -> None:
    """The extra of that name."""
    with gym.make("gem-game/Wordle-easy-v0", **PATIENT) as env:
        env.reset(seed=0)
        env.step(env.unwrapped.sample_random_action())  # type: ignore[attr-defined]


def data(folder: str) -> None:
    """The extra of that name."""
    rows = Path(folder, "rows.json")
    rows.write_text(json.dumps([{"problem": "1+1", "answer": "2"}]))
    with gym.make("gem-math/GSM8K-v0", dataset=str(rows), **PATIENT) as env:
        assert "1+1" in env.reset(seed=0)[0]
        assert env.step("\\boxed{2}")[1] == 1.0


def recording(folder: str) -> None:
    tape = Path(folder, "tape.jsonl")
    with Record(gym.make(GUESS, **PATIENT), tape) as env:
        observation, _ = env.reset(seed=1)
        env.step("\\boxed{5}")
    assert Replay(tape).reset(seed=1)[0] == observation
    assert rerun(tape).difference is None
    assert write_page(tape, Path(folder, "tape.html")) == 1


def sandboxes() -> None:
    with rock_gym.SandboxPool(min_idle=1, max_size=2) as pool, pool.acquire() as sandbox:
        sandbox.write_file("x.txt", "text")
        session = sandbox.create_session()
        assert session.run("cat x.txt").output == "text"
        assert sandbox.execute("exit 3").exit_code == 3


def commands() -> None:
    command = [sys.executable, "-m", "rock_gym"]

    def out(*words: str) -> str:
        done = subprocess.run([*command, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert rock_gym.__version__ in out("--version")
    assert len(json.loads(out("envs", "--json"))) > 100
    assert "gem-game/Sokoban-easy-v0" in out("envs", "sokoban")
    assert "2 episodes" in out("run", GUESS, "-n", "2", "--num-envs", "2")
    assert out("exec", "--", "echo", "hi") == "hi\n"
    assert "_ROCK_GYM_COMPLETE" in out("completion", "bash")


def server() -> None:
    """The extra of that name."""
    command = [sys.executable, "-m", "rock_gym", "serve", "--port", "0", "--image-alias", "x=host"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            request = urllib.request.Request(
                f"{found[0]}/apis/envs/sandbox/v1/start",
                json.dumps({"image": "x"}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer)["status"] == "Success"
        finally:
            process.terminate()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        environments()
        sandboxes()
        recording(folder)
        commands()
        server()
        words()
        data(folder)
    names = ("click", "gymnasium", "numpy", "msgspec", "docker", "rich", "starlette", "uvicorn")
    print(json.dumps({name: version(name) for name in names}))


if __name__ == "__main__":
    main()
