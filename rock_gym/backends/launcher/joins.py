"""Processes that join sandboxes: from the fork, through the request, to the exit code."""

import contextlib
import json
import os
import select
import signal
import socket

import calls
import inside
from forker import Children
from loop import Loop
from packets import send
from states import Joined, Sandbox, failure

MAX_TRIES = 5
MAX_ORDERS = 256

PF_EXITING = 0x4


class Joins:
    """All processes that have joined sandboxes, and those that wait inside for a request.

    Args:
        loop: Which tells of reports.
        children: Which makes processes.
        filters: System call filters by name; they may come later.
    """

    def __init__(self, loop: Loop, children: Children, filters: dict[str, bytes]) -> None:
        self.loop = loop
        self.children = children
        self.filters = filters
        self.processes: dict[int, Joined] = {}  # by pid
        self.orders: dict[str, bytes] = {}  # by what they are made of

    def make_spare(self, sandbox: Sandbox) -> Joined:
        """Have a process join the sandbox now, so that the next request need not wait for it.

        Most of what a join costs is thereby off everybody's path.
        """
        if sandbox.spare is not None:
            return sandbox.spare
        sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        report, their_report = os.pipe()
        spare = Joined(sandbox, sock, report)
        try:
            fds = [sandbox.init_fd, theirs.fileno(), their_report]
            spare.pid = self.children.fork(self.order(sandbox), fds)
        except OSError as error:  # the sandbox is dying, or the machine has no process left
            spare.error = str(error)
        theirs.close()
        os.close(their_report)
        sandbox.spare = spare
        if spare.pid > 0:
            self.processes[spare.pid] = spare
        self.loop.watch(report, lambda: self.on_report(spare))
        return spare

    def steps(self, sandbox: Sandbox) -> list[calls.Call]:
        """Return how a process joins a sandbox."""
        identity = sandbox.request["identity"]
        return inside.joining(identity, self.filters[identity["seccomp"]], sandbox.doors())

    def order(self, sandbox: Sandbox) -> bytes:
        """Return the order to fork a process that joins a sandbox: the same for most of them."""
        key = json.dumps([sandbox.request["identity"], sandbox.doors()])
        if key not in self.orders:
            if len(self.orders) >= MAX_ORDERS:
                self.orders.clear()
            # An ordinary user has no way back from another process namespace.
            directly = os.geteuid() == 0
            kind = calls.JOIN_DIRECTLY if directly else calls.JOIN_BY_ANOTHER
            self.orders[key] = calls.encode(kind, self.steps(sandbox))
        return self.orders[key]

    def copy_tree(self, sandbox: Sandbox, data: bytes, fds: list[int], tries: int) -> None:
        """Have a fork of this process copy a tree in or out."""
        report, their_report = os.pipe()
        joined = Joined(sandbox, None, report)
        joined.request, joined.tries = (data, fds), tries
        try:
            joined.pid = os.fork()
        except OSError as error:
            joined.error = str(error)
        if joined.pid == 0:
            steps = self.steps(sandbox)
            inside.copy_tree(steps, sandbox.init_fd, data, fds, their_report)
        os.close(their_report)
        if joined.pid > 0:
            self.processes[joined.pid] = joined
        self.loop.watch(report, lambda: self.on_report(joined))

    def assign(self, sandbox: Sandbox, data: bytes, fds: list[int], tries: int = 1) -> None:
        """Give a request to the spare; it waits in its socket until the join is done."""
        if data.startswith(b"{"):
            self.copy_tree(sandbox, data, fds, tries)
            return
        joined, sandbox.spare = self.make_spare(sandbox), None
        assert joined.sock is not None
        joined.request, joined.tries = (data, fds), tries
        # When it was killed from inside this fails, and the end of its report tells.
        with contextlib.suppress(OSError):
            socket.send_fds(joined.sock, [data], fds)
        joined.sock.close()

    def on_report(self, joined: Joined) -> None:
        """Follow a process on its way to its exec."""
        data = os.read(joined.report, 4096)
        if data:
            joined.reports += data
            return
        self.loop.forget(joined.report)
        os.close(joined.report)
        joined.has_become = True
        error = {"error": "lost", "text": joined.error} if joined.error else failure(joined.reports)
        if joined.request is None:
            # A spare that was killed from inside before it was needed.
            if joined.sandbox.spare is joined:
                joined.sandbox.spare = None
            if joined.sock is not None:
                joined.sock.close()
        elif not joined.reports and not error and self.may_try_again(joined):
            # Killed likewise. Another will take it, unless that is what the inside goes on with.
            self.assign(joined.sandbox, *joined.request, joined.tries + 1)
        else:
            if not joined.reports and not error:
                error = {"error": "lost", "text": "it ended, or kills all that joins it"}
            self.answer(joined, error)

    def may_try_again(self, joined: Joined) -> bool:
        """Whether another process can take the request of one that was killed before it did."""
        return joined.sandbox.is_running and joined.tries < MAX_TRIES

    def answer(self, joined: Joined, error: dict) -> None:
        """Tell the owner what became of its request."""
        assert joined.request is not None
        fds = joined.request[1]
        joined.status = socket.socket(fileno=fds[0])
        for fd in fds[1:]:
            os.close(fd)
        if error:
            send(joined.status, error)
            joined.status.close()
            joined.status = None
            return
        send(joined.status, {"pid": joined.pid})
        self.tell_exit(joined)

    def take_stop(self, pid: int) -> None:
        """Kill a process that was stopped from inside before it became anything: it never will.

        What it has reported may not have been looked at yet: a program may stop itself at once.
        """
        joined = self.processes.get(pid)
        if joined is None or joined.has_become:
            return
        poll = select.poll()
        poll.register(joined.report, select.POLLIN)
        while not joined.has_become and poll.poll(0):
            self.on_report(joined)
        if not joined.has_become:
            os.kill(pid, signal.SIGKILL)

    def take_end(self, pid: int, status: int) -> Sandbox:
        """Take note of the end of one of the processes; returns the sandbox it was in."""
        joined = self.processes.pop(pid)
        joined.exit_status = status
        self.tell_exit(joined)
        return joined.sandbox

    def kill(self, sandbox: Sandbox) -> None:
        """Kill what copies trees of a sandbox that has ended: all others ended with it."""
        for pid, joined in self.processes.items():
            if joined.sandbox is sandbox:
                os.kill(pid, signal.SIGKILL)

    def tell_exit(self, joined: Joined) -> None:
        """Send an exit code, once there is one and the request has been answered."""
        if joined.exit_status is None or joined.status is None:
            return
        code = os.waitstatus_to_exitcode(joined.exit_status)
        if code == -signal.SIGKILL and is_dying(joined.sandbox.init):
            # It did not end by itself: its sandbox did.
            send(joined.status, {"lost": True})
        else:
            send(joined.status, {"exit": code if code >= 0 else 128 - code})
        joined.status.close()
        joined.status = None


def is_dying(pid: int) -> bool:
    """Whether a process is on its way out, though not yet gone.

    A namespace's init lingers until all it contains are reaped, so that its own end comes last.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return True
    return fields[0] in b"ZX" or int(fields[6]) & PF_EXITING != 0
