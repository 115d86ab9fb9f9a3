"""A client of the GEM API that keeps its connection."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

GEM = "/apis/v1/envs/gem"
SANDBOX = "/apis/envs/sandbox/v1"


@dataclass
class Answer:
    """What a request gave."""

    status: int
    body: Any


class Client:
    """One connection, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        data = None if body is None else json.dumps(body)
        self._connection.request(
            method, path, data, {"Content-Type": "application/json", **headers}
        )
        response = self._connection.getresponse()
        return Answer(response.status, json.loads(response.read()))

    def gem(self, call: str, **body: Any) -> Answer:
        """Call the GEM API."""
        return self.ask("POST", f"{GEM}/{call}", body)

    def made(self, env_id: str | None, **body: Any) -> str:
        """Make an environment or a batch; returns its id."""
        answer = self.gem("make", **({} if env_id is None else {"env_id": env_id}), **body)
        assert answer.status == 200, answer.body
        made: str = answer.body["sandbox_id"]
        return made

    def close(self) -> None:
        self._connection.close()
