"""What every request passes first: who may ask, in what manner, and a note of how it went.

A server without a token listens on loopback alone and trusts whoever may connect there. Web pages
may, too: a browser sends what a page asks for to any address. It also says so, by ``Origin`` and
``Sec-Fetch-Site``, and by the name it was told in ``Host``, which a page can make point here. All
three are looked at before anything else is.
"""

from __future__ import annotations

import hmac
import itertools
import logging
import re
import secrets
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from rock_gym.server.envelope import Call, refuse
from rock_gym.server.failures import Failure
from rock_gym.server.state import ServerState

_log = logging.getLogger("rock_gym.server")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_OPEN = ("/healthz",)

Exact = Mapping[tuple[str, str], ASGIApp]


class Guard:
    """The outermost application.

    Args:
        app: What comes next.
        state: The server's.
        exact: Applications by method and path, for paths without parameters: most requests need
            no search.
    """

    def __init__(self, app: ASGIApp, state: ServerState, exact: Exact) -> None:
        self._app = app
        self._state = state
        self._exact = exact
        settings = state.settings
        self._strict = settings.strict
        self._hosts = frozenset(name.lower() for name in settings.hosts)
        self._token = None if settings.token is None else settings.token.encode()
        self._series = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Examine a request, pass it on, and note how it went."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none, and none may pass unchecked
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        call = self._call(headers)
        scope["rock"] = call
        failure = self._examine(scope["path"], headers)
        if failure is not None:
            call.route = "refused"
            await refuse(send, failure, call)
        else:
            app = self._exact.get((scope["method"], scope["path"]), self._app)
            await app(scope, receive, send)
        seconds = time.perf_counter() - started
        self._state.metrics.count(call.route or "other", call.outcome, seconds)
        if _log.isEnabledFor(logging.INFO):
            _log.info(
                "%s %s %s %.1f ms id=%s%s",
                scope["method"],
                call.route or "other",
                call.outcome,
                seconds * 1e3,
                call.id,
                f" sandbox={call.sandbox_id[:80]!a}" if call.sandbox_id else "",
            )

    def _call(self, headers: dict[bytes, bytes]) -> Call:
        given = headers.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            request_id = given.decode()
        else:
            request_id = f"{self._series}-{next(self._numbers)}"
        strict = self._strict or headers.get(b"x-rock-strict") in (b"1", b"true")
        return Call(request_id, strict, headers, self._state.settings.max_body_bytes, {})

    def _examine(self, path: str, headers: dict[bytes, bytes]) -> Failure | None:
        """Return why a request is refused, if it is."""
        host = headers.get(b"host", b"").decode("latin-1")
        if (page := _page_behind(headers, host)) is not None:
            return _refusal("cross_origin", 403, f"requests of web pages are refused: {page!r}")
        if self._token is None and _name_of(host) not in self._hosts:
            return _refusal(
                "wrong_host",
                403,
                f"this server is not {host[:80]!r}; call it by its name, or allow that one with "
                "--allow-host",
            )
        if self._token is not None and path not in _OPEN and not self._is_known(headers):
            return _refusal(
                "unauthorized", 401, "send the server's token: Authorization: Bearer TOKEN"
            )
        if self._state.stopping:
            return _refusal("shutting_down", 503, "the server is shutting down")
        return None

    def _is_known(self, headers: dict[bytes, bytes]) -> bool:
        assert self._token is not None
        # ROCK's clients have a header of their own.
        for name in (b"authorization", b"xrl-authorization"):
            scheme, _, token = headers.get(name, b"").partition(b" ")
            if scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token):
                return True
        return False


def _page_behind(headers: dict[bytes, bytes], host: str) -> str | None:
    """Return the origin of the web page that a request comes from, if it is another's."""
    origin = headers.get(b"origin")
    if origin is not None:
        text = origin.decode("latin-1")
        if text not in (f"http://{host}", f"https://{host}"):
            return text[:80]
    site = headers.get(b"sec-fetch-site")
    return site.decode("latin-1") if site in (b"cross-site", b"same-site") else None


def _name_of(host: str) -> str:
    """Return the name in a Host header, without the port, which a tunnel may change."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _refusal(kind: str, http: int, reason: str) -> Failure:
    return Failure(kind, http, http, reason)
