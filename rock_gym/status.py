"""What a sandbox tells of itself: its state, how it got there, and the limits it ran into."""

from __future__ import annotations

from dataclasses import dataclass

from rock_gym.backends.base import Capabilities


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of a sandbox's state.

    Attributes:
        state: The state it came into: pending, running, stopped or deleted.
        time_s: When, in seconds since the epoch.
        reason: Why.
    """

    state: str
    time_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class SandboxEvent:
    """A limit that a sandbox ran into.

    Attributes:
        kind: ``"oom"``: processes were killed because the memory limit was reached. ``"pids"``:
            the limit on processes was reached. ``"disk"``: its file system was full.
        time_s: When it was noticed, in seconds since the epoch.
    """

    kind: str
    time_s: float


@dataclass(frozen=True, slots=True)
class Status:
    """What a sandbox is at the moment.

    Attributes:
        sandbox_id: Its id.
        state: pending, running, stopped or deleted.
        backend: The backend it runs on.
        image: Its image.
        sessions: Names of its open sessions.
        capabilities: What its backend can do and which limits it holds: where it says
            ``"rlimit"``, each process has the limit of memory for itself.
        history: All its changes of state, oldest first.
        events: The limits it ran into, as far as noticed; the last hundred, oldest first.
    """

    sandbox_id: str
    state: str
    backend: str
    image: str | None
    sessions: tuple[str, ...]
    capabilities: Capabilities
    history: tuple[Transition, ...]
    events: tuple[SandboxEvent, ...] = ()
