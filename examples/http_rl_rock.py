"""ROCK's own client, unmodified, against this server: a sandbox, and a game.

Before it, in another terminal::

    rock-gym serve --image-alias python:3.11=host

and here, in an environment of its own, ``pip install rl-rock``. Another address than
``http://localhost:8080`` goes into the variable ``ROCK_BASE_URL``.
"""

import asyncio

import rock
from rock.actions import Command, CreateBashSessionRequest
from rock.sdk.sandbox.client import Sandbox
from rock.sdk.sandbox.config import SandboxConfig


async def use_a_sandbox() -> None:
    """Run a command, and two in a session."""
    sandbox = Sandbox(SandboxConfig(image="python:3.11", memory="1g", cpus=1))
    await sandbox.start()
    done = await sandbox.execute(Command(command=["echo", "hello"]))
    print(f"sandbox: {done.stdout.strip()}, exit code {done.exit_code}")
    await sandbox.create_session(CreateBashSessionRequest(session="main"))
    await sandbox.arun("cd /tmp && x=1", session="main")
    kept = await sandbox.arun("echo $x in $PWD", session="main")
    print(f"session: {kept.output.strip()}")
    await sandbox.stop()


def play() -> None:
    """Play a game by halving."""
    env = rock.make("game:GuessTheNumber-v0-easy")
    observation, _ = env.reset(seed=42)
    low, high, done = 1, 10, False
    while not done:
        guess = (low + high) // 2
        observation, reward, terminated, truncated, _ = env.step(f"\\boxed{{{guess}}}")
        print(f"game: {guess} -> reward {reward}")
        low, high = (guess + 1, high) if "higher" in observation else (low, guess - 1)
        done = terminated or truncated
    env.close()


asyncio.run(use_a_sandbox())
play()
