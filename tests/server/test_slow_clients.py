"""Connections whose clients do not go on are cut off, by deadlines that are short here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from rock_gym.server import protocol
from rock_gym.server.protocol import TimedProtocol
from tests.contract.support import eventually

BIG = 32 << 20
HEAD = b"POST /echo HTTP/1.1\r\nHost: x\r\n"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of a body; sends a lot at /big."""
    length = 0
    more = True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"x" * BIG if scope["path"] == "/big" else str(length).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for start in range(0, len(body), 1 << 20):
        piece = body[start : start + (1 << 20)]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[uvicorn.Server, int]]:
    """A server whose deadlines are fractions of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "HEADERS_S", 0.4)
        patch.setattr(protocol, "BODY_LOOK_S", 0.4)
        patch.setattr(protocol, "READER_S", 0.4)
        patch.setattr(protocol, "BODY_BYTES_PER_S", 1000)
        sock = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            application, http=TimedProtocol, lifespan="off", log_config=None, ws="none"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
        thread.start()
        yield server, sock.getsockname()[1]
        server.should_exit = True
        thread.join(20)
        sock.close()


@pytest.fixture
def client(running: tuple[uvicorn.Server, int]) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", running[1]), timeout=20) as sock:
        yield sock


def is_cut(client: socket.socket) -> bool:
    try:
        return client.recv(1 << 16) == b""
    except ConnectionError:
        return True


def drip(client: socket.socket, piece: bytes) -> bool:
    """Send a drop now and then; returns whether the connection is cut in spite of that."""

    def send() -> bool:
        try:
            client.sendall(piece)
        except OSError:
            return True
        return False

    return eventually(send, 10)


def test_silence(client: socket.socket) -> None:
    assert is_cut(client)


@pytest.mark.parametrize("start", [b"POST /", HEAD, HEAD + b"X-Long: "])
def test_headers_that_do_not_come(client: socket.socket, start: bytes) -> None:
    client.sendall(start)
    assert is_cut(client)


def test_headers_that_come_drop_by_drop(client: socket.socket) -> None:
    client.sendall(HEAD + b"X-Long: ")
    assert drip(client, b"x")


def test_headers_without_end(client: socket.socket) -> None:
    client.sendall(HEAD)
    with contextlib.suppress(OSError):
        for _ in range(10_000):
            client.sendall(b"X-A: " + b"x" * 4096 + b"\r\n")
        pytest.fail("40 MB of headers were taken")


def test_a_body_that_does_not_come(client: socket.socket) -> None:
    client.sendall(HEAD + b"Content-Length: 10\r\n\r\n1234")
    assert is_cut(client)


def test_a_body_that_comes_too_slowly(client: socket.socket) -> None:
    client.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
    assert drip(client, b"x")


def test_line_ends_between_requests_keep_nothing_open(client: socket.socket) -> None:
    client.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
    assert drip(client, b"\r\n")


def test_an_answer_that_is_not_taken(running: tuple[uvicorn.Server, int]) -> None:
    """The server holds no more of it than fits on the way."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", running[1]))
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        assert eventually(lambda: running[0].server_state.tasks)
        assert eventually(lambda: not running[0].server_state.tasks)


def test_one_that_goes_on_is_served(client: socket.socket) -> None:
    """More than a look's worth, in pieces, and a second request on the same connection."""
    for _ in range(2):
        client.sendall(HEAD + b"Content-Length: 6000\r\n\r\n")
        for _ in range(6):
            client.sendall(b"x" * 1000)
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            answer += client.recv(1 << 16)
        assert b"\r\n6000\r\n" in answer
