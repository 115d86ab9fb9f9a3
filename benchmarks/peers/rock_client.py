"""ROCK's own client against a server.

python -m benchmarks.peers.rock_client sandbox|env URL GEM_ID ACTION
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from benchmarks.peers.answering import serve


def play(gem_id: str, action: str) -> None:
    """Serve samples of steps."""
    import rock

    env = rock.make(gem_id)
    over = True

    def step() -> float:
        nonlocal over
        if over:
            env.reset(seed=1)
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        taken = time.perf_counter() - start
        over = terminated or truncated
        return taken

    serve({"step": lambda count: [step() for _ in range(count)]})
    env.close()


def run_commands() -> None:
    """Serve samples of a builtin in a session."""
    from rock.actions import CreateBashSessionRequest
    from rock.sdk.sandbox.client import Sandbox
    from rock.sdk.sandbox.config import SandboxConfig

    loop = asyncio.new_event_loop()
    sandbox = Sandbox(SandboxConfig(image="host", memory="1g", cpus=1))
    loop.run_until_complete(sandbox.start())
    loop.run_until_complete(sandbox.create_session(CreateBashSessionRequest(session="main")))

    async def one() -> float:
        start = time.perf_counter()
        done = await sandbox.arun("true", session="main")
        taken = time.perf_counter() - start
        assert done.exit_code == 0, done
        return taken

    serve({"session": lambda count: [loop.run_until_complete(one()) for _ in range(count)]})
    loop.run_until_complete(sandbox.stop())


if __name__ == "__main__":
    kind, url, *rest = sys.argv[1:]
    # Read when the package is imported.
    os.environ.update(ROCK_BASE_URL=url, ROCK_LOGGING_LEVEL="ERROR")
    if kind == "env":
        play(*rest)
    else:
        run_commands()
