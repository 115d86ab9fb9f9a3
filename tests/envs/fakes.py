"""A worker without a sandbox: it plays a small game, and fails when it is told to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TURNS = 3


@dataclass
class Reply:
    """What a worker answers. A reset leaves the last three at their defaults."""

    observation: str
    info: dict[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


@dataclass
class FakeWorker:
    """Answers as the process of an environment does that ends after three turns."""

    config: Any
    number: int
    pool: Any
    envs_per_sandbox: int | None
    # What the next calls raise, in order.
    faults: list[BaseException] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    closed: int = 0
    turn: int = 0
    # What replaces the text of the next replies.
    text: str | None = None

    @property
    def sandbox(self) -> str:
        return f"sandbox {self.number}"

    def _fail(self, timeout_s: float | None) -> None:
        assert not self.closed, "used after close"
        self.timeouts.append(timeout_s)
        if self.faults:
            raise self.faults.pop(0)

    def reset(self, seed: int, timeout_s: float | None) -> Reply:
        self.seeds.append(seed)
        self._fail(timeout_s)
        self.turn = 0
        return Reply(self.text or f"rules {seed}", {"suffix": "board 0", "list": [seed]})

    def step(self, action: str, timeout_s: float | None) -> Reply:
        self.actions.append(action)
        self._fail(timeout_s)
        self.turn += 1
        ended = self.turn == TURNS
        text = self.text or f"turn {self.turn} of {self.seeds[-1]}: {action}\n"
        info = {"suffix": f"board {self.turn}", "list": [self.turn]}
        return Reply(text, info, reward=self.turn, terminated=ended, truncated=ended)

    def close(self) -> None:
        self.closed += 1


@dataclass
class Leases:
    """Stands in for ``lease_worker`` and ``default_pool``, and remembers what was asked of them."""

    workers: list[FakeWorker] = field(default_factory=list)
    pools: list[tuple[str, Any]] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    def lease(
        self, config: Any, pool: Any, envs_per_sandbox: int | None, timeout_s: float | None
    ) -> FakeWorker:
        if self.faults:
            raise self.faults.pop(0)
        self.workers.append(FakeWorker(config, len(self.workers), pool, envs_per_sandbox))
        return self.workers[-1]

    def default_pool(self, backend: str, spec: Any) -> str:
        self.pools.append((backend, spec))
        return "default pool"

    @property
    def last(self) -> FakeWorker:
        return self.workers[-1]
