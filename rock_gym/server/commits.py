"""Images made of sandboxes, by tasks that a client asks about."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.routing import Route

from rock_gym.backends.docker import DockerBackend
from rock_gym.backends.docker.images import Credentials
from rock_gym.errors import BackendUnavailable, RockGymError
from rock_gym.sandbox import Sandbox
from rock_gym.server import messages as m
from rock_gym.server import results as r
from rock_gym.server.entries import SandboxEntry
from rock_gym.server.envelope import Call, JsonRoute
from rock_gym.server.failures import Refused, tellable
from rock_gym.server.leases import LeasingBackend
from rock_gym.server.sandbox_routes import PREFIX, entry_of
from rock_gym.server.state import ServerState
from rock_gym.server.views import when

# Most are done in less, so that clients that cannot wait for the end need not learn to.
_PATIENCE_S = 60.0
_KEPT = 1000
_CODES = {"commit": 12, "push": 13}


def routes(state: ServerState) -> list[Route]:
    """Return the routes of commits."""
    commits = _Commits(state)
    return [
        JsonRoute(
            f"{PREFIX}/commit",
            commits.begin,
            request=m.CommitRequest,
            result=r.CommitResult,
            title="commit sandbox",
        ),
        JsonRoute(
            f"{PREFIX}/commit/{{sandbox_id}}",
            commits.status,
            result=r.CommitResult,
            method="GET",
            title="get commit status",
        ),
    ]


class _Commit:
    """One image on its way."""

    def __init__(self, request: m.CommitRequest) -> None:
        self.request = request
        self.task: asyncio.Task[None] | None = None
        self._started_s = time.time()
        self._completed_s: float | None = None
        self._stage = "commit"
        self._error: RockGymError | None = None
        self._text = ""

    async def run(self, entry: SandboxEntry, request_id: str) -> None:
        """Make the image, and push it if there is somebody to push it as."""
        try:
            image = await entry.use(Sandbox.commit, self.request.image_tag)
            self._text = f"{image.name} of {image.size_bytes} bytes was made"
            if self.request.username:
                self._stage = "push"
                await entry.use(_push, entry, self.request)
                self._text += " and pushed"
        except Exception as error:  # a boundary: kept for whoever asks
            self._error = tellable(error, request_id)
        finally:
            self._completed_s = time.time()

    @property
    def runs(self) -> bool:
        """Whether it is on its way."""
        return self._completed_s is None

    def result(self) -> dict[str, Any]:
        """Return what ROCK's clients read: newer ones a phase, older ones an exit code."""
        phase = "RUNNING" if self.runs else "SUCCEEDED" if self._error is None else "FAILED"
        code = None if self.runs else 0 if self._error is None else _CODES[self._stage]
        return {
            "sandbox_id": self.request.sandbox_id,
            "image_tag": self.request.image_tag,
            "phase": phase,
            "started_at": when(self._started_s),
            "completed_at": when(self._completed_s),
            "exit_code": code,
            "failed_stage": self._stage if self._error is not None else None,
            "error_code": f"{self._stage.upper()}_FAILED" if self._error is not None else None,
            "error_message": self._error.message if self._error is not None else None,
            "stdout": self._text,
            "stderr": self._error.message if self._error is not None else "",
        }

    def check(self) -> dict[str, Any]:
        """Return the result, or raise what went wrong."""
        if self._error is not None and self._stage == "commit":
            raise self._error
        return self.result()


class _Commits:
    """Handlers of commits."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._commits: dict[str, _Commit] = {}

    async def begin(self, request: m.CommitRequest, call: Call) -> dict[str, Any]:
        """Make an image of the files of a sandbox. What takes long is asked for by commit/{id}."""
        entry = entry_of(self._state, request.sandbox_id, call)
        commit = self._commits.get(entry.id)
        if commit is None or not commit.runs:
            commit = _Commit(request)
            self._remember(entry.id, commit)
            commit.task = asyncio.create_task(commit.run(entry, call.id), name=f"commit {entry.id}")
        elif commit.request.image_tag != request.image_tag:
            raise Refused(
                f"{entry.id} is being committed as {commit.request.image_tag}; wait for that",
                kind="commit_conflict",
                http=409,
            )
        assert commit.task is not None
        await asyncio.wait({commit.task}, timeout=_PATIENCE_S)
        return commit.check()

    def _remember(self, sandbox_id: str, commit: _Commit) -> None:
        self._commits.pop(sandbox_id, None)
        self._commits[sandbox_id] = commit
        for old in [key for key, each in self._commits.items() if not each.runs][:-_KEPT]:
            del self._commits[old]

    async def status(self, request: None, call: Call) -> dict[str, Any]:
        """Tell how far an image is."""
        sandbox_id = call.path["sandbox_id"]
        commit = self._commits.get(sandbox_id)
        if commit is None:
            self._state.registry.get(sandbox_id)
            raise Refused(f"{sandbox_id} was not committed", kind="not_committed", http=404)
        return commit.result()


def _push(sandbox: Sandbox, entry: SandboxEntry, request: m.CommitRequest) -> None:
    backend = entry.wish.backend
    docker = backend.docker if isinstance(backend, LeasingBackend) else backend
    if not isinstance(docker, DockerBackend):
        raise BackendUnavailable(
            "the image is in this machine's store, which cannot push; leave username out, or use "
            "rock-gym image export"
        )
    who = Credentials(request.username, request.password)
    docker.images.push(request.image_tag, credentials=who)
