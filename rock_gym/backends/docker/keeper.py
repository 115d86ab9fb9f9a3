"""Removes the containers of an owner that has been killed; a process of its own, one per owner.

They have stopped by then, as the stream to each first process has ended. The engine could remove
them by itself, but would then also take the files of one whose first process alone has died, which
can be started again. Runs without the package around it: the standard library alone.

Arguments: where the engine listens, the label of the owner's containers, the owner's process id and
when that was started.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
from typing import Any

# What the engine was doing when the owner died may still come into being.
_SECOND_LOOK_S = 1.0
_TRIES = 30
_CALL_S = 30.0


def await_end(pid: int, started: str) -> None:
    """Wait until a process has ended; one that was started at another time has."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    if start_time(pid) == started:
        select.select([handle], [], [])


def start_time(pid: int) -> str:
    """Return when a process was started, in ticks since boot; empty when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name stands in parentheses and may hold anything.
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def ask(url: str, method: str, path: str) -> Any:
    """Make one call of the engine, and return what it answers."""
    import http.client
    import socket
    from urllib.parse import urlsplit

    place = urlsplit(url)
    if place.scheme == "unix":
        connection = http.client.HTTPConnection("docker", timeout=_CALL_S)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(_CALL_S)
        connection.sock.connect(place.path)
    else:
        connection = http.client.HTTPConnection(
            place.hostname or "", place.port or 2375, timeout=_CALL_S
        )
    with contextlib.closing(connection):
        connection.request(method, path)
        body = connection.getresponse().read()
    return json.loads(body) if body else None


def remove_all(url: str, label: str) -> bool:
    """Remove what carries a label. Returns whether nothing did."""
    from concurrent.futures import ThreadPoolExecutor
    from urllib.parse import quote

    filters = quote(json.dumps({"label": [label]}))
    found = ask(url, "GET", f"/containers/json?all=1&filters={filters}")
    ids = [each["Id"] for each in found if "rock-gym.lease" not in each["Labels"]]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: _remove(url, name), ids))
    return not ids


def _remove(url: str, name: str) -> None:
    # Another one may be at it, or the engine about to end; the next look tells.
    with contextlib.suppress(OSError, ValueError):
        ask(url, "DELETE", f"/containers/{name}?force=1&v=1")


def main(url: str, label: str, pid: str, started: str) -> None:
    """Wait for the owner's end, and remove what it leaves."""
    await_end(int(pid), started)
    empty = 0
    for _ in range(_TRIES):
        try:
            empty = empty + 1 if remove_all(url, label) else 0
        except (OSError, ValueError):
            empty = 0  # no engine answers; it may be restarting
        if empty == 2:
            return
        select.select([], [], [], _SECOND_LOOK_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
