"""The sandbox API: how sandboxes are started, looked at and ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from starlette.routing import Route

from rock_gym.errors import RockGymError, SpecError
from rock_gym.sandbox import Sandbox
from rock_gym.server import messages as m
from rock_gym.server import results as r
from rock_gym.server import views
from rock_gym.server.entries import SandboxEntry, Terms
from rock_gym.server.envelope import Call, Handler, JsonRoute, Shape, rock_result
from rock_gym.server.failures import Failure
from rock_gym.server.gem_entry import GemEntry
from rock_gym.server.journal import Row
from rock_gym.server.leases import RENEW_S
from rock_gym.server.starts import WARM_S, Starter, Wish
from rock_gym.server.state import ServerState

_log = logging.getLogger("rock_gym.server")

PREFIX = "/apis/envs/sandbox/v1"

# How long get_status waits for a sandbox that is on its way: ROCK's client sleeps for 3 s after
# an answer that it is not up yet.
_PATIENCE_S = 2.0
_RESTART_S = 180.0


def routes(state: ServerState) -> list[Route]:
    """Return the routes of lives."""
    api = _Lives(state)
    one, by_path = m.SandboxRequest, "sandboxes/{sandbox_id}"
    return [
        _post("start", api.start, m.StartRequest, r.Started, "start sandbox"),
        _post("start_async", api.start_async, m.StartRequest, r.Started, "async start sandbox"),
        _get("is_alive", api.is_alive, one, r.Alive, "get sandbox is alive"),
        _get("get_status", api.get_status, m.StatusQuery, r.StatusResult, "get sandbox status"),
        _get(
            "get_sandbox_statistics",
            api.statistics,
            one,
            r.StatisticsResult,
            "get sandbox statistics",
            shape=_nothing,
        ),
        _post("stop", api.stop, one, str, "stop sandbox"),
        _post("delete", api.delete, one, r.Deleted, "delete sandbox"),
        _post("restart", api.restart, one, r.Started, "restart sandbox"),
        _post(f"{by_path}/restart", api.restart_by_path, None, r.Started, "restart sandbox"),
        _post(f"{by_path}/archive", api.archive, None, None, "archive sandbox"),
        _get("sandboxes", api.list, m.ListQuery, r.ListResult, "list sandboxes"),
        _post(
            "sandboxes/batch", api.batch, m.BatchRequest, r.BatchResult, "batch get sandbox status"
        ),
        _get("get_token", api.get_token, m.TokenQuery, None, "get token"),
    ]


def _post(
    path: str, handler: Handler, request: type[Struct] | None, result: Any, title: str
) -> JsonRoute:
    return JsonRoute(f"{PREFIX}/{path}", handler, request=request, result=result, title=title)


def _get(
    path: str,
    handler: Handler,
    request: type[Struct],
    result: Any,
    title: str,
    shape: Shape = rock_result,
) -> JsonRoute:
    return JsonRoute(
        f"{PREFIX}/{path}",
        handler,
        request=request,
        result=result,
        method="GET",
        title=title,
        shape=shape,
    )


def _nothing(failure: Failure) -> None:
    return None


def entry_of(state: ServerState, sandbox_id: str, call: Call) -> SandboxEntry:
    """Return a sandbox that somebody wants to use.

    Raises:
        Refused: If there is none of that id.
    """
    call.sandbox_id = sandbox_id
    return state.registry.get_as(sandbox_id, SandboxEntry, "a sandbox")


def usable_of(state: ServerState, sandbox_id: str, call: Call) -> SandboxEntry | GemEntry:
    """Return what commands and files may be asked of: a sandbox, or an environment's own.

    Raises:
        Refused: If there is none of that id.
    """
    call.sandbox_id = sandbox_id
    entry = state.registry.get(sandbox_id)
    if isinstance(entry, GemEntry):
        return entry
    return entry_of(state, sandbox_id, call)


def _user(call: Call) -> Mapping[str, str]:
    headers = {
        "user_id": "x-user-id",
        "experiment_id": "x-experiment-id",
        "namespace": "x-namespace",
    }
    found = {name: call.header(header) for name, header in headers.items()}
    return {name: value[:200] for name, value in found.items() if value}


class _Lives:
    """Handlers that start sandboxes, end them, and tell of them."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._starter = Starter(state.settings)
        self._renewing: asyncio.Task[None] | None = None
        self._cooling: asyncio.TimerHandle | None = None
        state.on_start(self._take_over)
        state.on_closing(lambda: state.threads.control(self._starter.close_pools))
        state.on_stop(self._close)
        state.metrics.watch(
            "rock_gym_spares", "Sandboxes that wait to be started.", "backend", self._starter.spares
        )

    async def _take_over(self) -> None:
        """Take over what a killed server left, or remove it."""
        journal, adopts = self._state.registry.journal, self._state.settings.adopt
        owners = journal.earlier_owners()
        rows = [row for row in journal.left() if row.info.get("leased") and row.info.get("inner")]
        if owners:
            await self._adopt_all(rows if adopts else [], owners)
        if adopts:
            self._renewing = asyncio.create_task(self._renew(), name="renew leases")

    async def _adopt_all(self, rows: list[Row], owners: list[str]) -> None:
        try:
            found = await self._state.threads.control(self._starter.adopt, rows, owners)
        except RockGymError as error:  # such as an engine that does not answer
            _log.warning("what the last server left is not taken over, and ends soon: %s", error)
            return
        for row in rows:
            if row.id in found:
                self._adopt(row, found[row.id])

    def _adopt(self, row: Row, sandbox: Sandbox) -> None:
        info = row.info
        wish = Wish(info["image"], sandbox.spec, self._starter.leasing(), _RESTART_S)
        entry = SandboxEntry(
            row.id, self._state, wish, Terms(info["idle_s"], info["keep_s"], info["user"])
        )
        entry.created_s = info["created_s"]
        entry.lost_sessions = set(info["sessions"])
        self._state.registry.add(entry, info)
        entry.take(sandbox)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self._state.threads.control(self._starter.renew)

    async def _close(self) -> None:
        for timer in (self._renewing, self._cooling):
            if timer is not None:
                timer.cancel()
        await self._state.threads.control(self._starter.close)

    async def _begin(self, request: m.StartRequest, call: Call) -> SandboxEntry:
        wish = await self._state.threads.control(self._starter.understand, request)
        settings = self._state.settings
        minutes, keep = request.auto_clear_time_minutes, request.auto_delete_seconds
        terms = Terms(
            idle_s=settings.idle_s if minutes is None else max(1.0, 60 * minutes),
            keep_s=settings.keep_stopped_s if keep is None else keep,
            user=_user(call),
        )
        entry = SandboxEntry(
            self._state.registry.claim(request.sandbox_id), self._state, wish, terms
        )
        call.sandbox_id = entry.id
        self._state.registry.add(entry, entry.info())
        entry.begin(self._starter, call.id)
        if self._cooling is None:
            self._cool_later()
        return entry

    def _cool_later(self) -> None:
        """Look at the spares once those that were started last are not new any more."""
        loop = asyncio.get_running_loop()
        self._cooling = loop.call_later(WARM_S, lambda: self._state.spawn(self._cool()))

    async def _cool(self) -> None:
        if await self._state.threads.control(self._starter.cool):
            self._cool_later()
        else:
            self._cooling = None

    async def start(self, request: m.StartRequest, call: Call) -> r.Started:
        """Start a sandbox, and answer when it is up."""
        entry = await self._begin(request, call)
        try:
            await entry.started()
        except RockGymError:
            await entry.delete()  # the client never learns its id
            raise
        return _started(entry)

    async def start_async(self, request: m.StartRequest, call: Call) -> r.Started:
        """Have a sandbox started, and answer with its id; get_status tells when it is up."""
        return _started(await self._begin(request, call))

    async def is_alive(self, request: m.SandboxRequest, call: Call) -> r.Alive:
        """Tell whether a sandbox can be used; if it is unknown or gone, why."""
        call.sandbox_id = request.sandbox_id
        entry = self._state.registry.find(request.sandbox_id)
        if entry is None:
            return r.Alive(False, self._state.registry.absence(request.sandbox_id).message)
        alive = entry.is_alive()
        return r.Alive(alive, views.HOST_NAME if alive else f"it is {entry.state}")

    async def get_status(self, request: m.StatusQuery, call: Call) -> dict[str, Any]:
        """Tell what a sandbox or an environment is; waits a little for one on its way up."""
        call.sandbox_id = request.sandbox_id
        entry = self._state.registry.get(request.sandbox_id)
        if isinstance(entry, SandboxEntry):
            await entry.settle(_PATIENCE_S)
        entry.touch()
        return await entry.status()

    async def statistics(self, request: m.SandboxRequest, call: Call) -> dict[str, Any]:
        """Tell what a sandbox uses."""
        return await entry_of(self._state, request.sandbox_id, call).statistics()

    async def stop(self, request: m.SandboxRequest, call: Call) -> str:
        """End all that runs in a sandbox, and keep its files for a while. Twice is fine."""
        call.sandbox_id = request.sandbox_id
        entry = self._state.registry.find(request.sandbox_id)
        if entry is not None:
            await entry.stop()
        elif call.strict and self._state.registry.journal.find(request.sandbox_id) is None:
            raise self._state.registry.absence(request.sandbox_id)
        return f"{request.sandbox_id} stopped"

    async def delete(self, request: m.SandboxRequest, call: Call) -> dict[str, Any]:
        """End a sandbox or an environment, and free its files."""
        call.sandbox_id = request.sandbox_id
        await self._state.registry.get(request.sandbox_id).delete()
        return {"sandbox_id": request.sandbox_id, "code": None, "exit_code": None}

    async def restart(self, request: m.SandboxRequest, call: Call) -> r.Started:
        """Start a sandbox again, with the files it has; its sessions end."""
        entry = entry_of(self._state, request.sandbox_id, call)
        await entry.restart(_RESTART_S)
        return _started(entry)

    async def restart_by_path(self, request: None, call: Call) -> r.Started:
        """Start a sandbox again, with the files it has; its sessions end."""
        return await self.restart(m.SandboxRequest(sandbox_id=call.path["sandbox_id"]), call)

    async def archive(self, request: None, call: Call) -> None:
        """Nothing is archived here: always a failure."""
        raise SpecError("sandboxes are not archived here; commit it, or stop it and restart it")

    async def list(self, request: m.ListQuery, call: Call) -> dict[str, Any]:
        """Tell of all sandboxes and environments, or of some."""
        found = [await entry.status() for entry in self._state.registry]
        wanted = {
            name: value
            for name in ("user_id", "experiment_id", "namespace", "image", "state")
            if (value := getattr(request, name)) is not None
        }
        items = [each for each in found if all(each[name] == wanted[name] for name in wanted)]
        first = (request.page - 1) * request.page_size
        last = first + request.page_size
        return {"items": items[first:last], "total": len(items), "has_more": last < len(items)}

    async def batch(self, request: m.BatchRequest, call: Call) -> dict[str, Any]:
        """Tell of several sandboxes and environments; those that are gone are left out."""
        found = (self._state.registry.find(each) for each in request.sandbox_ids)
        return {"statuses": [await entry.status() for entry in found if entry is not None]}

    async def get_token(self, request: m.TokenQuery, call: Call) -> None:
        """Ask for access to an object store: there is none, and the result is null."""
        return  # there is no object store; the client then sends files itself


def _started(entry: SandboxEntry) -> r.Started:
    resources = entry.wish.spec.resources
    disk = views.size_text(resources.disk_bytes)
    return r.Started(
        sandbox_id=entry.id,
        host_name=views.HOST_NAME,
        host_ip=views.HOST_IP,
        cpus=resources.cpus,
        memory=views.size_text(resources.memory_bytes),
        disk=disk,
        disk_limit_rootfs=disk,
    )
