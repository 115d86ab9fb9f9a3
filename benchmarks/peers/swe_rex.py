"""SWE-ReX's runtime in this process: no server, no client and no sandbox around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from swerex.runtime.abstract import BashAction, Command, CreateBashSessionRequest
from swerex.runtime.local import LocalRuntime

from benchmarks.peers.answering import serve


def main() -> None:
    """Serve samples of a builtin and of a program in a session, and of ``execute``."""
    loop = asyncio.new_event_loop()
    runtime = LocalRuntime()
    # Not within its usual second: a busy machine is no reason to do without it.
    request = CreateBashSessionRequest(startup_timeout=60)
    loop.run_until_complete(runtime.create_session(request))

    async def one(command: str, *, alone: bool) -> float:
        start = time.perf_counter()
        if alone:
            done = await runtime.execute(Command(command=[command]))
        else:
            done = await runtime.run_in_session(BashAction(command=command))
        taken = time.perf_counter() - start
        assert done.exit_code == 0, done
        return taken

    def sampler(command: str, *, alone: bool = False) -> Callable[[int], list[float]]:
        return lambda count: [
            loop.run_until_complete(one(command, alone=alone)) for _ in range(count)
        ]

    serve(
        {
            "builtin": sampler("true"),
            "external": sampler("/bin/true"),
            "execute": sampler("/bin/true", alone=True),
        }
    )
    loop.run_until_complete(runtime.close())


if __name__ == "__main__":
    main()
