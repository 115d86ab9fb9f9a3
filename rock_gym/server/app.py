"""The ASGI application: ROCK's REST API over the same sandboxes and environments.

Each part of the API is a module with ``routes(state) -> list[Route]``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rock_gym.server import command_routes, commits, file_routes, gem_routes, sandbox_routes
from rock_gym.server.docs_page import page
from rock_gym.server.envelope import JsonRoute, failed
from rock_gym.server.guard import Guard
from rock_gym.server.metrics import CONTENT_TYPE
from rock_gym.server.openapi import document
from rock_gym.server.settings import Settings
from rock_gym.server.state import ServerState

PARTS = (gem_routes, sandbox_routes, command_routes, file_routes, commits)


def create_app(settings: Settings | None = None, **options: Any) -> Starlette:
    """Make the application, for any ASGI server that runs lifespans.

    Deadlines for slow clients, and a graceful end while commands run, are ``rock-gym serve``'s.

    Args:
        settings: What it is told; or
        **options: the attributes of ``Settings``.

    Raises:
        SpecError: If an option makes no sense.
        BackendUnavailable: If another server uses the same state.
    """
    state = ServerState(settings if settings is not None else Settings(**options))
    routes: list[BaseRoute] = [*_own_routes(state)]
    for part in PARTS:
        routes += part.routes(state)
    routes += _documents(routes, state)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            await state.start()
            yield
        finally:
            await state.stop()

    app = _Guarded(
        routes=routes, exception_handlers={HTTPException: _not_routed}, lifespan=lifespan
    )
    app.guard = Guard(app.rest, state, _exact(routes))
    app.state.rock = state
    return app


class _Guarded(Starlette):
    """An application inside a guard, by which most requests get to their route at once."""

    guard: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope["app"] = self  # by which Starlette's forms know how to fail
        await self.guard(scope, receive, send)

    async def rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one that the guard has no route for."""
        await super().__call__(scope, receive, send)


def _exact(routes: list[BaseRoute]) -> dict[tuple[str, str], ASGIApp]:
    """Return what answers paths without parameters."""
    return {
        (method, route.path): route.exchange
        for route in routes
        if isinstance(route, JsonRoute) and "{" not in route.path
        for method in route.methods or ()
    }


def _own_routes(state: ServerState) -> list[Route]:
    async def hello(request: Request) -> Response:
        return JSONResponse({"message": "rock_gym answers; its API is described at /docs"})

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        return Response(state.metrics.text(), headers={"content-type": CONTENT_TYPE.decode()})

    return [Route("/", hello), Route("/healthz", healthz), Route("/metrics", metrics)]


def _documents(routes: list[BaseRoute], state: ServerState) -> list[Route]:
    """Return the routes that describe the others."""
    described = document(routes, token=state.settings.token is not None)
    encoded, text = msgspec.json.encode(described), page(described)

    async def openapi(request: Request) -> Response:
        return Response(encoded, media_type="application/json")

    async def docs(request: Request) -> Response:
        return HTMLResponse(text)

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


async def _not_routed(request: Request, error: Exception) -> Response:
    """Answer 404 and 405, as ROCK does and in the envelope."""
    assert isinstance(error, HTTPException)
    call = request.scope["rock"]
    call.outcome = "not_found" if error.status_code == 404 else "method_not_allowed"
    body = failed(error.detail, f"no {request.method} here; see /docs", kind=call.outcome)
    headers = {**(error.headers or {}), "x-request-id": call.id}
    return JSONResponse({**body, "detail": error.detail}, error.status_code, headers)
