"""ROCK's envelope around every answer, and the route that reads and writes it.

Answers to what the API understands have the HTTP status 200, failures too: ROCK's clients throw
away the body of any other. With the header ``X-Rock-Strict: 1``, or for a server started with
``--strict``, failures have real statuses and are problem details (RFC 9457). What never gets as
far as the API, such as a wrong token, has a real status in either mode.

A body is decoded into a ``msgspec.Struct``, which is also what the OpenAPI document is made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rock_gym.server.failures import Failure, Refused, explain

JSON = b"application/json"
PROBLEM = b"application/problem+json"
OCTETS = b"application/octet-stream"
TAR = b"application/x-tar"
INVALID = "invalid parameter"

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


@dataclass(slots=True, eq=False)
class Call:
    """One request on its way, as a handler sees it. It is at ``scope["rock"]``.

    Attributes:
        id: The request's id, which the answer names in ``X-Request-Id``.
        strict: Whether failures have real statuses.
        headers: The request's headers, by their lower-case names.
        max_body_bytes: The longest JSON body.
        path: Parameters from the path.
        route: For the log and the figures: the path of the route that answers.
        outcome: For the log and the figures: ``"Success"``, or the kind of failure.
        sandbox_id: For the log, what it is about.
    """

    id: str
    strict: bool
    headers: dict[bytes, bytes]
    max_body_bytes: int
    path: dict[str, Any]
    route: str = ""
    outcome: str = "Success"
    sandbox_id: str = ""

    def header(self, name: str) -> str | None:
        """Return a header's value."""
        value = self.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A result that is no JSON.

    Attributes:
        pieces: Its bytes.
        content_type: What they are.
    """

    pieces: AsyncGenerator[bytes, None]
    content_type: bytes = OCTETS


Reader = Callable[[Scope, Receive, Call], Awaitable[Any]]
Handler = Callable[[Any, Call], Awaitable[object]]
# Makes the result of a failed call, for clients that read it without looking at the status.
Shape = Callable[[Failure], dict[str, Any] | None]


def ok(result: object, message: str | None = None) -> dict[str, object]:
    """Wrap a result."""
    return {"status": "Success", "message": message, "error": None, "result": result}


def failed(
    message: str | None, error: str, result: object = None, *, kind: str = "internal_error"
) -> dict[str, object]:
    """Wrap a failure.

    Args:
        message: What did not work, in ROCK's words.
        error: Why, and what to do.
        result: What the endpoint's result has all the same.
        kind: A word for programs; ROCK has none.
    """
    return {"status": "Failed", "message": message, "error": error, "result": result, "kind": kind}


def rock_result(failure: Failure) -> dict[str, Any]:
    """Return what ROCK's clients read of a failure to know whose fault it was."""
    return {
        "code": failure.code,
        "exit_code": failure.more.get("exit_code"),
        "failure_reason": failure.reason,
    }


def problem(failure: Failure, title: str, call: Call) -> dict[str, object]:
    """Return a failure as problem details."""
    return {
        "type": f"urn:rock-gym:{failure.kind}",
        "title": title,
        "status": failure.http,
        "detail": failure.reason,
        "kind": failure.kind,
        "code": failure.code,
        "request_id": call.id,
        **failure.more,
    }


class JsonRoute(Route):
    """A route whose request and answer are JSON.

    Args:
        path: Where it is.
        handler: Called with the decoded request and the call; returns the result.
        request: What the body, or for GET the query, is decoded into; None takes neither.
        result: The type of the result, for the document.
        method: The HTTP method.
        title: What it does, in a few words; ``"... failed"`` is made of it.
        failure_message: ROCK's fixed text for a failure, where it is another; None for none.
        shape: Makes the result of a failure.
        enveloped: Whether a success stands in the envelope. Failures always do.
        encode: How an answer becomes JSON.
        read: Reads the request instead, where its body is not JSON.
        failure_status: The HTTP status of failures but for invalid parameters, unless strict.
    """

    def __init__(
        self,
        path: str,
        handler: Handler,
        *,
        request: type[msgspec.Struct] | None = None,
        result: Any = dict[str, Any],
        method: str = "POST",
        title: str,
        failure_message: str | msgspec.UnsetType | None = msgspec.UNSET,
        shape: Shape = rock_result,
        enveloped: bool = True,
        encode: Callable[[object], bytes] = _encode,
        read: Reader | None = None,
        failure_status: int = 200,
    ) -> None:
        fixed = f"{title} failed" if failure_message is msgspec.UNSET else failure_message
        self.request = request
        self.result = result
        self.title = title
        self.text = " ".join((handler.__doc__ or "").partition("\n\n")[0].split())
        self.has_form = read is not None
        self.enveloped = enveloped
        self.exchange = _Exchange(path, handler, request, method, title, fixed, shape, enveloped)
        self.exchange.encode = encode
        if read is not None:
            self.exchange.read = read
        self.failure_status = self.exchange.failure_status = failure_status
        super().__init__(path, self.exchange, methods=[method])


class _Exchange:
    """The ASGI application behind a ``JsonRoute``."""

    def __init__(
        self,
        path: str,
        handler: Handler,
        request: type[msgspec.Struct] | None,
        method: str,
        title: str,
        message: str | None,
        shape: Shape,
        enveloped: bool,
    ) -> None:
        self._path = path
        self._handler = handler
        self._request = request
        self._in_query = method == "GET"
        self._decode = msgspec.json.Decoder(request or msgspec.Raw, strict=False).decode
        self._title = title
        self._message = message
        self._shape = shape
        self._enveloped = enveloped
        self.encode = _encode
        self.read: Reader = self._read_json
        self.failure_status = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        call: Call = scope["rock"]
        call.route = self._path
        call.path = scope.get("path_params") or {}
        try:
            request = await self.read(scope, receive, call)
            result = await self._handler(request, call)
            if isinstance(result, Stream):
                await _send_stream(send, receive, result, call)
                return
            body = self.encode(ok(result) if self._enveloped else result)
        except Exception as error:  # a boundary: `explain` logs what it does not know
            await self._fail(error, call, send)
        else:
            await answer(send, 200, body, call)

    async def _read_json(self, scope: Scope, receive: Receive, call: Call) -> Any:
        if self._request is None:
            return None
        if not self._in_query:
            check_type(call, b"application/json")
        try:
            if self._in_query:
                pairs = dict(parse_qsl(scope["query_string"].decode("latin-1"), True))
                return msgspec.convert(pairs, self._request, strict=False)
            return self._decode(await read_body(receive, call.max_body_bytes))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Refused(_where(error), kind="invalid_parameter") from None

    async def _fail(self, error: Exception, call: Call, send: Send) -> None:
        failure = explain(error, call.id)
        call.outcome = failure.kind
        if isinstance(error, Refused) and error.real:
            await refuse(send, failure, call)
        elif call.strict:
            details = problem(failure, self._message or f"{self._title} failed", call)
            await answer(send, failure.http, _encode(details), call, PROBLEM)
        elif failure.kind == "invalid_parameter":
            body = failed(INVALID, failure.reason, kind=failure.kind)
            await answer(send, 200, _encode(body), call)
        else:
            body = failed(self._message, failure.reason, self._shape(failure), kind=failure.kind)
            if self.failure_status != 200:
                body["detail"] = failure.reason  # where ROCK has it
            await answer(send, self.failure_status, _encode(body), call)


def _where(error: Exception) -> str:
    """Say which field of a body is wrong."""
    text, at, path = str(error).partition(" - at `$")
    if isinstance(error, RecursionError):
        text = "nested too deeply"
    return f"body{path.rstrip('`')}: {text}" if at else f"body: {text}"


async def read_body(receive: Receive, limit: int) -> bytes:
    """Read a whole body, of so many bytes at most.

    Raises:
        Refused: If it is longer, or the client is gone.
    """
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        chunks = [body]
        size = len(body)
        while message.get("more_body") and size <= limit:
            message = await receive()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
        body = b"".join(chunks)
    if message["type"] == "http.disconnect":
        raise client_gone()
    if len(body) > limit:
        raise too_large(limit, "JSON", "--max-body")
    return body


def client_gone() -> Refused:
    """Return the error for a client that goes away before it has said what it wants."""
    return Refused("the client went away", kind="client_gone", http=400, real=True)


def too_large(limit: int, what: str, option: str) -> Refused:
    """Return the error for a body beyond its limit."""
    return Refused(
        f"a {what} body may have {limit} bytes at most; send less, or start the server with a "
        f"larger {option}",
        kind="too_large",
        http=413,
        real=True,
    )


def check_type(call: Call, wanted: bytes) -> None:
    """Refuse a body of another type. A web page may send some of them to any address.

    Raises:
        Refused: If it is another.
    """
    given = call.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if given != wanted:
        shown = given[:80].decode("latin-1")
        raise Refused(
            f"the body's Content-Type must be {wanted.decode()}, not {shown!r}",
            kind="wrong_type",
            http=415,
            real=True,
        )


async def answer(
    send: Send,
    status: int,
    body: bytes,
    call: Call,
    content_type: bytes = JSON,
    more: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """Send an answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", b"%d" % len(body)),
                (b"x-request-id", call.id.encode()),
                *more,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, failure: Failure, call: Call) -> None:
    """Answer what never gets as far as the API: with a real status in either mode."""
    call.outcome = failure.kind
    title = failure.kind.replace("_", " ")
    # What is left of a body is not worth reading.
    more: tuple[tuple[bytes, bytes], ...] = ((b"connection", b"close"),)
    if failure.http == 401:
        more += ((b"www-authenticate", b"Bearer"),)
    if call.strict:
        body = _encode(problem(failure, title, call))
        await answer(send, failure.http, body, call, PROBLEM, more)
        return
    body = _encode({**failed(title, failure.reason, kind=failure.kind), "detail": failure.reason})
    await answer(send, failure.http, body, call, JSON, more)


async def _send_stream(send: Send, receive: Receive, stream: Stream, call: Call) -> None:
    """Send an answer piece by piece, as long as the client is there.

    An error in the middle cuts the connection.
    """
    pieces = stream.pieces
    gone = asyncio.ensure_future(_await_end(receive))
    try:
        first = await anext(pieces, b"")  # what fails at once can still be told
        headers = [(b"content-type", stream.content_type), (b"x-request-id", call.id.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for piece in pieces:
            if gone.done():
                call.outcome = "client_gone"
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()
        await pieces.aclose()


async def _await_end(receive: Receive) -> None:
    """Wait until the client is gone, or has its answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


__all__ = [
    "Call",
    "JsonRoute",
    "Stream",
    "answer",
    "check_type",
    "client_gone",
    "failed",
    "ok",
    "problem",
    "read_body",
    "refuse",
    "rock_result",
    "too_large",
]
