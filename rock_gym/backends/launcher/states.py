"""What the launcher knows of sandboxes and of the processes that join them."""

import errno
import os
import socket

import calls
import cgroups


def children_of(pid: int) -> list[int]:
    """Return the children of a single-threaded process."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


class Sandbox:
    """One bwrap and what it takes to join it."""

    def __init__(self, sock: socket.socket, request: dict) -> None:
        self.sock = sock
        self.request = request
        self.bwrap = 0
        self.is_running = False  # from the start of bwrap to its end
        self.init = 0
        self.init_fd = -1
        self.spare: Joined | None = None
        self.pipes: dict[str, int] = {}
        self.mounts = -1  # the namespace that holds its files, once it has come up
        self.group: cgroups.Group | None = None
        self.user_namespace = -1  # of the ids of a sandbox of an image that root starts
        self.unwanted = False  # its owner has closed its end
        self.steps: list[calls.Call] = []  # with which bwrap was started

    def doors(self) -> list[str]:
        """Return what its processes write to to join its control groups."""
        return self.group.doors() if self.group else []

    def close_pipe(self, name: str) -> None:
        """Close one of the pipes to bwrap, if it is open."""
        if name in self.pipes:
            os.close(self.pipes.pop(name))


class Joined:
    """A process inside a sandbox, from its fork to its end: first a spare, then somebody's.

    What it reports tells where it is: that it took a request, or an error. The end of the report
    without an error is the exec.
    """

    def __init__(self, sandbox: Sandbox, sock: socket.socket | None, report: int) -> None:
        self.sandbox = sandbox
        self.report = report  # comes from it, open until it has become what was asked of it
        self.sock = sock  # takes the request
        self.pid = -1
        self.reports = b""
        self.has_become = False  # what was asked of it, or it has ended
        self.error = ""  # why there is none
        self.exit_status: int | None = None
        self.request: tuple[bytes, list[int]] | None = None
        self.tries = 0
        self.status: socket.socket | None = None  # to the owner


def failure(reports: bytes) -> dict:
    """Return the error that a process has reported, in the owner's terms; else an empty one."""
    while reports:
        kind, error, detail, size = calls.REPORT.unpack_from(reports)
        data = reports[calls.REPORT.size : calls.REPORT.size + size]
        reports = reports[calls.REPORT.size + size :]
        if kind == calls.TAKEN:
            continue
        text, _, path = os.fsdecode(data).partition("\0")
        name = errno.errorcode.get(error, "EIO")
        answer: dict = {"error": name, "text": text or os.strerror(error)}
        if kind == calls.FAILED and detail == calls.ABOUT_DIRECTORY:
            answer["directory"] = True
        if kind == calls.FAILED and detail == calls.WITH_PATH:
            answer["path"] = path
        return answer
    return {}


def why_not_started(sandbox: Sandbox, data: bytes) -> str:
    """Return what bwrap has written, or which call before it has failed."""
    if sandbox.steps and len(data) == calls.REPORT.size and data[0] == calls.CALL_FAILED:
        _, error, number, _ = calls.REPORT.unpack(data)
        return calls.describe(sandbox.steps, number, error)
    return data.decode("utf-8", "replace").strip()
