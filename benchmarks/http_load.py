"""Clients of a server that cost little themselves: one, or many on one thread."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

GEM = "/apis/v1/envs/gem"
_END = b"\r\n\r\n"


class Connection:
    """One connection, kept open.

    Args:
        url: The server's.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host = parts.netloc
        self.sock = socket.create_connection((parts.hostname, parts.port), timeout=120)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def pack(self, path: str, body: Any) -> bytes:
        """Return a request as it is sent."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data

    def receive(self) -> tuple[int, bytes] | None:
        """Read once; returns status and body of the answer if it is complete."""
        data = self.sock.recv(262144)
        if not data:
            raise ConnectionError("the server hung up")
        self._rest += data
        at = self._rest.find(_END)
        if at < 0:
            return None
        head = self._rest[:at].lower()
        start = head.index(b"content-length:") + 15
        end = head.find(b"\r", start)
        size = int(head[start : end if end > 0 else None])
        if len(self._rest) < at + 4 + size:
            return None
        body, self._rest = self._rest[at + 4 : at + 4 + size], self._rest[at + 4 + size :]
        return int(head[9:12]), body

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and wait for its answer."""
        self.sock.sendall(request)
        while (answer := self.receive()) is None:
            pass
        return answer

    def gem(self, call: str, **body: Any) -> Any:
        """Call the GEM API; returns the answer, which must be no failure."""
        status, answer = self.exchange(self.pack(f"{GEM}/{call}", body))
        if status != 200:
            raise RuntimeError(answer.decode())
        return json.loads(answer)

    def close(self) -> None:
        """Close it."""
        self.sock.close()


class Player:
    """One client that plays one environment, from episode to episode.

    Args:
        url: The server's.
        env_id: What is played.
        seed: Its first episode's.
        act: Returns the next action.
    """

    def __init__(self, url: str, env_id: str, seed: int, act: Callable[[], str]) -> None:
        self.connection = Connection(url)
        self.steps = self.episodes = 0
        self._env_id, self._seed, self._act = env_id, seed, act
        self._id = ""
        self._over = True

    def make(self) -> bytes:
        """Return the request that makes its environment."""
        return self.connection.pack(f"{GEM}/make", {"env_id": self._env_id})

    def made(self, answer: bytes) -> None:
        """Take in what came of that."""
        self._id = json.loads(answer)["sandbox_id"]

    def next(self) -> bytes:
        """Return the next request."""
        if self._over:
            body = {"sandbox_id": self._id, "seed": self._seed + self.episodes}
            return self.connection.pack(f"{GEM}/reset", body)
        body = {"sandbox_id": self._id, "action": self._act()}
        return self.connection.pack(f"{GEM}/step", body)

    def take(self, answer: bytes) -> None:
        """Take in what came of it."""
        if self._over:
            assert b'"observation"' in answer, answer
            self.episodes += 1
            self._over = False
            return
        self.steps += 1
        turn = json.loads(answer)
        self._over = turn["terminated"] or turn["truncated"]

    def end(self) -> bytes:
        """Return the request that closes its environment."""
        return self.connection.pack(f"{GEM}/close", {"sandbox_id": self._id})


def drive(connections: list[Connection], following: Callable[[int, bytes], bytes | None]) -> None:
    """Keep a request on its way on each connection until there are no more.

    Args:
        connections: The connections.
        following: Called with a connection's number and the body of an answer (empty at first);
            returns the next request, or None for no more.

    Raises:
        RuntimeError: If an answer is a failure.
    """
    poll = select.epoll()
    numbers = {connection.sock.fileno(): n for n, connection in enumerate(connections)}
    left = len(connections)
    for number, connection in enumerate(connections):
        request = following(number, b"")
        if request is None:
            left -= 1
        else:
            poll.register(connection.sock, select.EPOLLIN)
            connection.sock.sendall(request)
    while left:
        ready = poll.poll(120)
        if not ready:
            raise TimeoutError(f"{left} clients wait for an answer")
        for fd, _ in ready:
            number = numbers[fd]
            answer = connections[number].receive()
            if answer is None:
                continue
            status, body = answer
            if status != 200 or b'"Failed"' in body[:20]:
                raise RuntimeError(body.decode())
            request = following(number, body)
            if request is None:
                left -= 1
            else:
                connections[number].sock.sendall(request)
    poll.close()
