"""A server for the benchmark: ours with a clock around it, or a bare route as the floor.

    python benchmarks/http_server.py ours|timed|bare

Prints its URL. The timed one is ours with one more path, ``/durations``: the seconds that each
``gem/step`` took inside since the last question, from its first byte in the application to its last
one out.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

STEP = "/apis/v1/envs/gem/step"


class Clock:
    """Times what goes through it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._seconds: deque[float] = deque(maxlen=100_000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        path = scope.get("path")
        if path == "/durations":
            found = list(self._seconds)
            self._seconds.clear()
            await JSONResponse(found)(scope, receive, send)
        elif path == STEP:
            start = time.perf_counter()
            await self._app(scope, receive, send)
            self._seconds.append(time.perf_counter() - start)
        else:
            await self._app(scope, receive, send)


def bare() -> ASGIApp:
    """A Starlette application whose one route returns what it was given at first."""
    kept: dict[str, Any] = {}

    async def keep(request: Request) -> JSONResponse:
        kept.update(await request.json())
        return JSONResponse({})

    async def answer(request: Request) -> JSONResponse:
        return JSONResponse(kept)

    return Starlette(
        routes=[Route("/keep", keep, methods=["POST"]), Route("/", answer, methods=["POST"])]
    )


def ours(state: str) -> ASGIApp:
    """Our application."""
    from rock_gym.server.app import create_app

    return create_app(backend="bubblewrap", state=state, max_sandboxes=5000)


class Server(uvicorn.Server):
    """Says where it listens."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start."""
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(json.dumps(f"http://127.0.0.1:{port}"), flush=True)


def main() -> None:
    """Serve until told to stop."""
    with tempfile.TemporaryDirectory() as directory:
        app = bare() if sys.argv[1] == "bare" else ours(str(Path(directory, "state.db")))
        if sys.argv[1] == "timed":
            app = Clock(app)
        config = uvicorn.Config(
            app,
            port=0,
            http="httptools",
            loop="uvloop",
            ws="none",
            lifespan="auto",
            access_log=False,
            log_level="warning",
            server_header=False,
            date_header=False,
            backlog=4096,
            timeout_keep_alive=75,
        )
        Server(config).run()


if __name__ == "__main__":
    main()
