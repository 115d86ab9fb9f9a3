"""The launcher: one lean process per owner that starts bwrap and joins processes to sandboxes.

It is a program of its own, run as ``python -I -S <this directory> FD PID``: the standard library
only, one thread, no state on disk. FD is a SOCK_SEQPACKET socket to its owner, PID the owner.

Ownership is by descriptor. For each sandbox the owner keeps one end of a socket and the launcher
the other: requests come over it, its end of file kills the sandbox, and the launcher shuts it down
when everything in the sandbox is dead. Until the owner has closed its end, too, the launcher keeps
what the sandbox has written, by a descriptor of the mount namespace that bwrap was started in, and
can start it anew. For each process inside there is a socket as well: it
carries the answer to the request and, later, the exit code. When the launcher itself ends, for
whatever reason, the first process of every sandbox reads an end of file, and its end is the end
of all. Not ``--die-with-parent``: a bwrap that is killed, or cannot write what it was to tell,
before it has released its child leaves that child waiting for ever.

Why a process of its own: a fork costs what its parent weighs, and must not happen beside threads.
Most children are made by the forker, which weighs nothing.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
from typing import NoReturn

import calls
import cgroups
import commit
import linux
import overlay
import stage
from forker import Children
from joins import Joins
from loop import Loop
from packets import load, receive, send
from states import Sandbox, children_of, why_not_started

STDERR_BYTES = 4096
LAST_S = 5
MAX_TEMPLATES = 64

# Making a spare takes a CPU for a millisecond, which a command that has just begun can use better:
# it waits for the command's end, or so long.
SPARE_DELAY_S = 0.002


class Launcher:
    """What serves the owner."""

    def __init__(self, control: socket.socket, owner: int) -> None:
        self.loop = Loop()
        self.children = Children(owner)
        self.seccomp: dict[str, bytes] = {}
        self.joins = Joins(self.loop, self.children, self.seccomp)
        self.sandboxes: dict[int, Sandbox] = {}  # by the pid of bwrap
        self.without_spare: dict[int, Sandbox] = {}  # by the pid of bwrap
        self.control = control
        self.plans: dict[str, dict] = {}
        self.templates: dict[str, stage.Template] = {}
        self.cgroups: cgroups.Cgroups | None = None
        self.with_groups: set[Sandbox] = set()
        self.wake_read, wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.loop.watch(self.wake_read, self.on_children)
        self.loop.watch(control.fileno(), self.on_control)
        # The socket alone is not enough: a forked child of the owner may hold a copy of its end.
        self.loop.watch(os.pidfd_open(owner), sys.exit)

    def run(self) -> None:
        """Serve until the owner is gone."""
        while True:
            if not self.loop.step(SPARE_DELAY_S if self.without_spare else None):
                self.joins.make_spare(self.without_spare.popitem()[1])

    # Requests

    def on_control(self) -> None:
        """Take a request from the owner: the filter, an image's plan, or a new sandbox."""
        data, fds = receive(self.control)
        if not data:
            sys.exit(0)
        request = load(data, fds)
        if request["op"] == "seccomp":
            self.seccomp[request["key"]] = bytes.fromhex(request["program"])
            return
        if request["op"] == "plan":
            self.plans[request["key"]] = request["plan"]
            return
        if request["op"] == "limits":
            with socket.socket(fileno=fds[0]) as sock:
                groups = self.groups()
                send(sock, {"controllers": sorted(groups.places), "swept": groups.swept})
            return
        sandbox = Sandbox(socket.socket(fileno=fds[0]), request)
        try:
            self.start(sandbox)
        except OSError as error:
            send(sandbox.sock, {"error": str(error)})
            self.free(sandbox)

    def groups(self) -> cgroups.Cgroups:
        """Return what makes control groups, looked for when it is first asked for."""
        if self.cgroups is None:
            self.cgroups = cgroups.Cgroups.here()
        return self.cgroups

    def start(self, sandbox: Sandbox) -> None:
        """Have a child become bwrap; the answer is sent when its payload says so."""
        template = self.template(sandbox.request["plan"])
        limits = sandbox.request["limits"]
        if limits and sandbox.group is None:
            sandbox.group = self.groups().create(limits)
            self.with_groups.add(sandbox)
        kuid = sandbox.request["kuid"]
        if kuid is not None and "layers" in sandbox.request and sandbox.user_namespace < 0:
            sandbox.user_namespace = overlay.make_user_namespace(kuid)
        names = ("stdin", "ready", "stderr")
        pipes = {name: os.pipe() for name in names}
        seccomp = os.memfd_create("seccomp")  # bwrap reads it to its end, so each has its own
        os.write(seccomp, self.seccomp[sandbox.request["identity"]["seccomp"]])
        os.lseek(seccomp, 0, os.SEEK_SET)
        theirs = [pipes["stdin"][0], pipes["ready"][1], pipes["stderr"][1], seccomp]
        sandbox.pipes = {name: pipes[name][0] for name in names[1:]}
        sandbox.pipes["stdin"] = pipes["stdin"][1]
        place = stage.Place(template, sandbox.mounts, sandbox.doors(), sandbox.user_namespace)
        try:
            sandbox.bwrap = self.fork_bwrap(sandbox, place, theirs)
        except OSError:
            for name in tuple(sandbox.pipes):
                sandbox.close_pipe(name)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.sandboxes[sandbox.bwrap] = sandbox
        sandbox.is_running = True
        self.loop.watch(sandbox.pipes["ready"], lambda: self.on_ready(sandbox))
        self.loop.watch(sandbox.sock.fileno(), lambda: self.on_sandbox(sandbox))

    def fork_bwrap(self, sandbox: Sandbox, place: stage.Place, fds: list[int]) -> int:
        """Fork the child that becomes bwrap: an image's root takes more than a list of calls."""
        request = sandbox.request
        if "layers" in request:
            if place.user_namespace >= 0:
                fds = [*fds, place.user_namespace]
            pid = os.fork()
            if pid == 0:
                stage.run_bwrap(request, place, fds)
            return pid
        first, last = stage.starting(request, place, calls.Fd(len(fds)))
        sandbox.steps = first + last
        order = calls.encode(calls.START, sandbox.steps, placed=len(fds))
        return self.children.fork(order, [*fds, place.namespace])

    def template(self, key: str) -> stage.Template:
        """Return what sandboxes of a plan start from, built when it is first asked for."""
        if key not in self.templates:
            if len(self.templates) >= MAX_TEMPLATES:
                # The oldest: whoever starts from one commit after the other needs each but once.
                self.templates.pop(next(iter(self.templates))).close()
            self.templates[key] = stage.Template(self.plans[key])
        return self.templates[key]

    def on_ready(self, sandbox: Sandbox) -> None:
        """Notice that the payload runs, so that all mounts are in place, and tell the owner."""
        data = os.read(sandbox.pipes["ready"], 16)
        self.loop.forget(sandbox.pipes["ready"])
        sandbox.close_pipe("ready")
        children = children_of(sandbox.bwrap)
        if not data or not children:
            return  # it failed; the end of bwrap tells
        try:
            sandbox.init_fd = os.pidfd_open(children[0])
        except ProcessLookupError:
            return
        sandbox.init = children[0]
        # Unread, this pipe would let the payload block; closed, it costs nothing.
        sandbox.close_pipe("stderr")
        groups = sandbox.group.paths if sandbox.group else {}
        send(sandbox.sock, {"pid": sandbox.init, "groups": groups})
        if sandbox.mounts < 0:
            # That in which bwrap itself is, with all that was mounted before it began.
            path = f"/proc/{sandbox.bwrap}/ns/mnt"
            with contextlib.suppress(OSError):
                sandbox.mounts = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.joins.make_spare(sandbox)
        if sandbox.group is not None:
            self.groups().prepare(sandbox.request["limits"])

    def on_sandbox(self, sandbox: Sandbox) -> None:
        """Take a request for one sandbox, or its owner's end of file."""
        data, fds = receive(sandbox.sock)
        if not data:
            self.loop.forget(sandbox.sock.fileno())
            sandbox.unwanted = True
            if sandbox.is_running:
                self.kill(sandbox)
            else:
                self.free(sandbox)
            return
        if data == b"stop":
            self.kill(sandbox)
            return
        if data == b"commit":
            self.commit(sandbox, fds)
            return
        if data == b"restart":
            self.restart(sandbox, socket.socket(fileno=fds[0]))
            return
        self.joins.assign(sandbox, data, fds)
        if sandbox.is_running:
            self.without_spare[sandbox.bwrap] = sandbox

    def commit(self, sandbox: Sandbox, fds: list[int]) -> None:
        """Have another process copy what the sandbox has written; it tells the owner."""
        sock, target = socket.socket(fileno=fds[0]), fds[1]
        try:
            pid = os.fork()
            if pid == 0:
                commit.run(sandbox.mounts, target, sock, sandbox.request)
            self.children.busy.add(pid)
        except OSError as error:
            send(sock, {"error": str(error)})
        finally:
            os.close(target)
            sock.close()

    def restart(self, sandbox: Sandbox, sock: socket.socket) -> None:
        """Start a sandbox that has ended over the files that it had; talk over another socket."""
        self.loop.forget(sandbox.sock.fileno())
        sandbox.sock.close()
        sandbox.sock, sandbox.init = sock, 0
        try:
            self.start(sandbox)
        except OSError as error:
            send(sock, {"error": str(error)})
            sock.shutdown(socket.SHUT_WR)
            self.loop.watch(sock.fileno(), lambda: self.on_sandbox(sandbox))

    # Ends

    def on_children(self) -> None:
        """Reap what has ended: bwraps, joined processes, and the short-lived ones between."""
        try:
            while os.read(self.wake_read, 4096):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                pid = 0
            if pid == 0:
                if self.cgroups is not None:
                    self.cgroups.retry()
                return
            if os.WIFSTOPPED(status):
                self.joins.take_stop(pid)
                continue
            self.children.busy.discard(pid)
            if pid in self.sandboxes:
                self.without_spare.pop(pid, None)
                self.end(self.sandboxes.pop(pid), status)
            elif pid in self.joins.processes:
                sandbox = self.joins.take_end(pid, status)
                if self.without_spare.pop(sandbox.bwrap, None):
                    self.joins.make_spare(sandbox)

    def kill_strays(self) -> None:
        """Kill what a bwrap left that failed: a child that waits for it for ever, now ours."""
        for pid in children_of(os.getpid()):
            if pid not in (*self.sandboxes, *self.joins.processes, *self.children.busy):
                os.kill(pid, signal.SIGKILL)

    def kill(self, sandbox: Sandbox) -> None:
        """Kill a sandbox: its init, whose end takes all others along, and bwrap after it."""
        if sandbox.init_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(sandbox.init_fd, signal.SIGKILL)
        else:
            # Not bwrap, which would leave a child behind: its payload ends as soon as it runs.
            sandbox.close_pipe("stdin")

    def end(self, sandbox: Sandbox, status: int) -> None:
        """Tell the owner that bwrap, and so everything inside, is gone; its files are kept."""
        sandbox.is_running = False
        self.joins.kill(sandbox)
        self.kill_strays()
        if not sandbox.init:
            text = why_not_started(sandbox, os.read(sandbox.pipes["stderr"], STDERR_BYTES))
            send(sandbox.sock, {"error": text or f"bwrap ended with status {status}"})
        for name in tuple(sandbox.pipes):
            self.loop.forget(sandbox.pipes[name])
            sandbox.close_pipe(name)
        if sandbox.init_fd >= 0:
            os.close(sandbox.init_fd)
            sandbox.init_fd = -1
        if sandbox.unwanted or sandbox.mounts < 0:
            self.free(sandbox)
            return
        with contextlib.suppress(OSError):
            sandbox.sock.shutdown(socket.SHUT_WR)

    def free(self, sandbox: Sandbox) -> None:
        """Give up all that is left of a sandbox that has ended."""
        if sandbox.mounts >= 0:
            os.close(sandbox.mounts)
            sandbox.mounts = -1
        if sandbox.user_namespace >= 0:
            os.close(sandbox.user_namespace)
            sandbox.user_namespace = -1
        if sandbox.group is not None and self.cgroups is not None:
            self.cgroups.discard(sandbox.group)
            self.with_groups.discard(sandbox)
            sandbox.group = None
        self.loop.forget(sandbox.sock.fileno())
        sandbox.sock.close()

    def finish(self) -> None:
        """Remove the control groups, which outlive processes, and so wait for the end of those."""
        self.children.close()
        if self.cgroups is None:
            return
        if any(sandbox.group for sandbox in self.sandboxes.values()):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LAST_S)  # should something not end, the next launcher sweeps
            for sandbox in self.sandboxes.values():
                self.kill(sandbox)
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(-1, 0)
        for sandbox in tuple(self.with_groups):
            self.free(sandbox)
        self.cgroups.close()


def enter_namespaces() -> None:
    """Get the right to mount and to join, or raise OSError where that is not to be had."""
    if os.geteuid() != 0:
        enter_user_namespace()
        return
    # Root has it already, unless it is that of a container: a child finds out.
    pid = os.fork()
    if pid == 0:
        try:
            linux.unshare(linux.CLONE_NEWNS)
            linux.unshare(linux.CLONE_NEWUSER)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        raise OSError(code, os.strerror(code))


def enter_user_namespace() -> None:
    """Become a user namespace's own ordinary user, with all rights in it."""
    uid, gid = os.getuid(), os.getgid()
    linux.unshare(linux.CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    calls.run(linux.keep_capabilities())  # the forker needs them, too


def refuse(control: socket.socket, owner: int, reason: str) -> NoReturn:
    """Answer all requests of an owner by the reason why nothing can be started here."""

    def on_control() -> None:
        data, fds = receive(control)
        if not data:
            sys.exit(0)
        load(data, fds)
        for fd in fds:
            with socket.socket(fileno=fd) as sock:
                send(sock, {"error": reason})

    loop = Loop()
    loop.watch(control.fileno(), on_control)
    loop.watch(os.pidfd_open(owner), sys.exit)
    while True:
        loop.step(None)


def main() -> None:
    """Run for the owner that is named on the command line."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    calls.run([linux.ADOPT_ORPHANS])
    try:
        enter_namespaces()
    except OSError as error:
        refuse(control, int(sys.argv[2]), f"namespaces: {error.strerror}")
    gc.disable()  # forks then share their pages, and nothing here makes cycles that last
    gc.freeze()
    launcher = Launcher(control, int(sys.argv[2]))
    try:
        launcher.run()
    finally:
        launcher.finish()


main()
