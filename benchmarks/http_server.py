"""A server for the benchmark: ours with a clock around it, or a bare route as the floor.

    python benchmarks/http_server.py ours|timed|bare

Prints its URL. The timed one is ours with one more path, ``/durations``: the seconds that each
``gem/step`` took inside since the last question, from its first byte in the application to its last
one out.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rock_gym.server.app import create_app
from rock_gym.server.serve import configuration, listen

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
    return create_app(backend="bubblewrap", state=state, max_sandboxes=5000)


class Server(uvicorn.Server):
    """Says where it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start."""
        await super().startup(sockets)
        assert sockets is not None
        print(json.dumps(f"http://127.0.0.1:{sockets[0].getsockname()[1]}"), flush=True)


def plain(app: ASGIApp) -> uvicorn.Config:
    """The floor's configuration: the fastest that uvicorn has."""
    return uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
    )


def main() -> None:
    """Serve until told to stop."""
    kind = sys.argv[1]
    with tempfile.TemporaryDirectory() as directory, closing(listen("127.0.0.1", 0)) as sock:
        if kind == "bare":
            config = plain(bare())
        else:
            app = ours(str(Path(directory, "state.db")))
            config = configuration(Clock(app) if kind == "timed" else app)
        Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()
