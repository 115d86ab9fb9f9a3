"""The GEM API of ROCK, and a batch form of each of its calls."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from rock_gym.errors import SpecError
from rock_gym.gem import catalog
from rock_gym.server.encode import encode
from rock_gym.server.envelope import Call, JsonRoute
from rock_gym.server.gem_batch import BatchEnv
from rock_gym.server.gem_entry import GemEntry
from rock_gym.server.gem_envs import GemEnvs
from rock_gym.server.gem_requests import (
    CloseRequest,
    ListRequest,
    ListResult,
    MakeRequest,
    MakeResult,
    ResetRequest,
    ResetResult,
    StepRequest,
    StepResult,
)
from rock_gym.server.state import ServerState

__all__ = ["PREFIX", "routes"]

PREFIX = "/apis/v1/envs/gem"

_to_json = msgspec.json.Encoder().encode
_LIST = _to_json(ListResult([record.gem_id for record in catalog.RECORDS]))


class _Gem:
    """The handlers."""

    def __init__(self, state: ServerState) -> None:
        self._registry = state.registry
        self._envs = GemEnvs(state)

    def _entry(self, sandbox_id: str, call: Call) -> GemEntry:
        """Return an environment or a batch.

        Raises:
            Refused: If there is none of that id.
        """
        call.sandbox_id = sandbox_id
        return self._registry.get_as(sandbox_id, GemEntry, "an environment")

    async def make(self, request: MakeRequest, call: Call) -> MakeResult:
        """Make an environment or a batch."""
        entry = await self._envs.make(request)
        call.sandbox_id = entry.id
        return MakeResult(entry.id, entry.env.size if entry.env.batched else UNSET)

    async def reset(self, request: ResetRequest, call: Call) -> Any:
        """Begin an episode."""
        env = self._entry(request.sandbox_id, call).env
        if isinstance(env, BatchEnv):
            return await env.reset(request.seed, request.env_ids)
        if isinstance(request.seed, list) or request.env_ids is not None:
            raise SpecError("lists of seeds and env_ids are for batches: make one by num_envs")
        return await env.reset(request.seed)

    async def step(self, request: StepRequest, call: Call) -> Any:
        """Take a turn."""
        env = self._entry(request.sandbox_id, call).env
        action = request.action
        if isinstance(env, BatchEnv):
            if isinstance(action, str):
                raise SpecError(f"this is a batch: give action as a list of {env.size} strings")
            return await env.step(action, request.env_ids)
        if not isinstance(action, str) or request.env_ids is not None:
            raise SpecError("lists of actions and env_ids are for batches: make one by num_envs")
        return await env.step(action)

    async def close(self, request: CloseRequest, call: Call) -> MakeResult:
        """Close an environment or a batch."""
        await self._entry(request.sandbox_id, call).delete()
        return MakeResult(request.sandbox_id)

    async def list(self, request: ListRequest, call: Call) -> msgspec.Raw:
        """Name all environments."""
        if request.sandbox_id is not None:
            self._entry(request.sandbox_id, call)
        return msgspec.Raw(_LIST)


def _encode(result: Any) -> bytes:
    # Batches are JSON already, and the other answers are ours.
    return encode(result) if type(result) is dict else _to_json(result)


def routes(state: ServerState) -> list[JsonRoute]:
    """Return the routes."""
    api = _Gem(state)

    def route(name: str, handler: Any, request: Any, result: Any, title: str) -> JsonRoute:
        return JsonRoute(
            f"{PREFIX}/{name}",
            handler,
            request=request,
            result=result,
            title=title,
            enveloped=False,
            encode=_encode,
            # ROCK's client of environments takes everything else for an answer, and says nothing
            # of what it has not got.
            failure_status=500,
        )

    return [
        route("step", api.step, StepRequest, StepResult, "step environment"),
        route("reset", api.reset, ResetRequest, ResetResult, "reset environment"),
        route("make", api.make, MakeRequest, MakeResult, "make environment"),
        route("close", api.close, CloseRequest, MakeResult, "close environment"),
        route("list", api.list, ListRequest, ListResult, "list environments"),
    ]
