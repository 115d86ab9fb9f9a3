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

Why a process of its own: joining a user namespace needs a single-threaded process, and a fork
costs what its parent weighs.
"""

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

import cgroups
import commit
import inside
import linux
import overlay
import stage
from packets import load, receive

STDERR_BYTES = 4096
MAX_TRIES = 5
LAST_S = 5
MAX_TEMPLATES = 64

# Making a spare takes a CPU for a millisecond, which a command that has just begun can use better:
# it waits for the command's end, or so long.
SPARE_DELAY_S = 0.002
PF_EXITING = 0x4


def send(sock: socket.socket, message: dict) -> None:
    """Send to the owner; one that does not listen any more needs no answer."""
    with contextlib.suppress(OSError):
        sock.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)


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
        self.init = 0
        self.init_fd = -1
        self.spare: Joined | None = None
        self.pipes: dict[str, int] = {}
        self.mounts = -1  # the namespace that holds its files, once it has come up
        self.group: cgroups.Group | None = None
        self.user_namespace = -1  # of the ids of a sandbox of an image that root starts
        self.unwanted = False  # its owner has closed its end

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

    def __init__(self, sandbox: Sandbox, sock: socket.socket) -> None:
        self.sandbox = sandbox
        self.sock = sock  # takes the request
        self.pid = -1
        self.reports = b""
        self.exit_status: int | None = None
        self.request: tuple[bytes, list[int]] | None = None
        self.tries = 0
        self.status: socket.socket | None = None  # to the owner


class Launcher:
    """The event loop."""

    def __init__(self, control: socket.socket, owner: int) -> None:
        self.poll = select.epoll()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.sandboxes: dict[int, Sandbox] = {}  # by the pid of bwrap
        self.processes: dict[int, Joined] = {}  # by pid
        self.helpers: set[int] = set()  # children that are at something by themselves
        self.without_spare: dict[int, Sandbox] = {}  # by the pid of bwrap
        # The way back to our own process namespace. Only root may take it.
        self.own_pids = -1
        if os.geteuid() == 0:
            self.own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.control = control
        self.seccomp: dict[str, bytes] = {}
        self.plans: dict[str, dict] = {}
        self.templates: dict[str, stage.Template] = {}
        self.cgroups: cgroups.Cgroups | None = None
        self.with_groups: set[Sandbox] = set()
        self.wake_read, wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.watch(self.wake_read, self.on_children)
        self.watch(control.fileno(), self.on_control)
        # The socket alone is not enough: a forked child of the owner may hold a copy of its end.
        self.watch(os.pidfd_open(owner), sys.exit)

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever ``fd`` becomes readable or reaches its end."""
        self.handlers[fd] = handler
        self.poll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """Stop watching; must come before the descriptor is closed."""
        if self.handlers.pop(fd, None):
            self.poll.unregister(fd)

    def run(self) -> None:
        """Serve until the owner is gone."""
        while True:
            # One at a time: a handler may close a descriptor whose number is then used anew, and
            # an older event for that number would make the next handler block.
            events = self.poll.poll(SPARE_DELAY_S if self.without_spare else None, maxevents=1)
            for fd, _ in events:
                self.handlers[fd]()
            if not events:
                self.make_spare(self.without_spare.popitem()[1])

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
                send(sock, {"controllers": sorted(self.groups().places)})
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
        """Fork, and run bwrap in the child; the answer is sent when its payload says so."""
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
        bwraps = [*theirs, sandbox.user_namespace] if sandbox.user_namespace >= 0 else theirs
        sandbox.bwrap = os.fork()
        if sandbox.bwrap == 0:
            namespace = sandbox.user_namespace
            place = stage.Place(template, sandbox.mounts, sandbox.doors(), namespace)
            stage.run_bwrap(sandbox.request, place, bwraps)
        for fd in theirs:
            os.close(fd)
        sandbox.pipes = {name: pipes[name][0] for name in names[1:]}
        sandbox.pipes["stdin"] = pipes["stdin"][1]
        self.sandboxes[sandbox.bwrap] = sandbox
        self.watch(sandbox.pipes["ready"], lambda: self.on_ready(sandbox))
        self.watch(sandbox.sock.fileno(), lambda: self.on_sandbox(sandbox))

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
        self.forget(sandbox.pipes["ready"])
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
        self.make_spare(sandbox)
        if sandbox.group is not None:
            self.groups().prepare(sandbox.request["limits"])

    def on_sandbox(self, sandbox: Sandbox) -> None:
        """Take a request for one sandbox, or its owner's end of file."""
        data, fds = receive(sandbox.sock)
        if not data:
            self.forget(sandbox.sock.fileno())
            sandbox.unwanted = True
            if sandbox.bwrap in self.sandboxes:
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
        self.assign(sandbox, data, fds)
        if sandbox.bwrap in self.sandboxes:
            self.without_spare[sandbox.bwrap] = sandbox

    def commit(self, sandbox: Sandbox, fds: list[int]) -> None:
        """Have another process copy what the sandbox has written; it tells the owner."""
        sock, target = socket.socket(fileno=fds[0]), fds[1]
        try:
            pid = os.fork()
            if pid == 0:
                commit.run(sandbox.mounts, target, sock, sandbox.request)
            self.helpers.add(pid)
        except OSError as error:
            send(sock, {"error": str(error)})
        finally:
            os.close(target)
            sock.close()

    def restart(self, sandbox: Sandbox, sock: socket.socket) -> None:
        """Start a sandbox that has ended over the files that it had; talk over another socket."""
        self.forget(sandbox.sock.fileno())
        sandbox.sock.close()
        sandbox.sock, sandbox.init = sock, 0
        try:
            self.start(sandbox)
        except OSError as error:
            send(sock, {"error": str(error)})
            sock.shutdown(socket.SHUT_WR)
            self.watch(sock.fileno(), lambda: self.on_sandbox(sandbox))

    def make_spare(self, sandbox: Sandbox) -> Joined:
        """Have a process join the sandbox now, so that the next request need not wait for it.

        Most of what a join costs is thereby off everybody's path.
        """
        if sandbox.spare is not None:
            return sandbox.spare
        sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        report, their_report = os.pipe()
        spare = Joined(sandbox, sock)
        try:
            spare.pid = self.fork_inside(sandbox)
        except OSError as error:  # the sandbox is dying, or the machine has no process left
            spare.reports = json.dumps({"error": "lost", "text": str(error)}).encode()
        if spare.pid == 0:
            identity = sandbox.request["identity"]
            # Before all else: what it costs to join is the sandbox's.
            doors = sandbox.doors()
            seccomp = self.seccomp[identity["seccomp"]]
            inside.join(identity, sandbox.init_fd, theirs, their_report, seccomp, doors)
        theirs.close()
        os.close(their_report)
        sandbox.spare = spare
        if spare.pid > 0:
            self.processes[spare.pid] = spare
        self.watch(report, lambda: self.on_report(spare, report))
        return spare

    def fork_inside(self, sandbox: Sandbox) -> int:
        """Fork a child that is in the sandbox's process namespace, and in no other one yet."""
        if self.own_pids < 0:
            return fork_by_another(sandbox.init_fd)
        linux.setns(sandbox.init_fd, linux.CLONE_NEWPID)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                linux.setns(self.own_pids, linux.CLONE_NEWPID)
        return pid

    def assign(self, sandbox: Sandbox, data: bytes, fds: list[int], tries: int = 1) -> None:
        """Give a request to the spare; it waits in its socket until the join is done."""
        joined, sandbox.spare = self.make_spare(sandbox), None
        joined.request, joined.tries = (data, fds), tries
        # When it was killed from inside this fails, and the end of its report tells.
        with contextlib.suppress(OSError):
            socket.send_fds(joined.sock, [data], fds)
        joined.sock.close()

    def on_report(self, joined: Joined, report: int) -> None:
        """Follow a process on its way to its exec."""
        data = os.read(report, 4096)
        if data:
            joined.reports += data
            return
        self.forget(report)
        os.close(report)
        answer: dict = {}
        for line in joined.reports.splitlines():
            answer.update(json.loads(line))
        if joined.request is None:
            # A spare that was killed from inside before it was needed.
            if joined.sandbox.spare is joined:
                joined.sandbox.spare = None
            joined.sock.close()
        elif not answer and joined.sandbox.bwrap in self.sandboxes and joined.tries < MAX_TRIES:
            # Killed likewise. Another will take it, unless that is what the inside goes on with.
            self.assign(joined.sandbox, *joined.request, joined.tries + 1)
        else:
            self.answer(joined, answer)

    def answer(self, joined: Joined, answer: dict) -> None:
        """Tell the owner what became of its request."""
        assert joined.request is not None
        fds = joined.request[1]
        joined.status = socket.socket(fileno=fds[0])
        for fd in fds[1:]:
            os.close(fd)
        if "error" in answer or not answer:
            text = "it ended, or kills all that joins it"
            send(joined.status, answer or {"error": "lost", "text": text})
            joined.status.close()
            joined.status = None
            return
        send(joined.status, {"pid": joined.pid})
        self.tell_exit(joined)

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
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if pid == 0:
                if self.cgroups is not None:
                    self.cgroups.retry()
                return
            self.helpers.discard(pid)
            if pid in self.sandboxes:
                self.without_spare.pop(pid, None)
                self.end(self.sandboxes.pop(pid), status)
            elif pid in self.processes:
                joined = self.processes.pop(pid)
                joined.exit_status = status
                self.tell_exit(joined)
                if self.without_spare.pop(joined.sandbox.bwrap, None):
                    self.make_spare(joined.sandbox)

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

    def kill_strays(self) -> None:
        """Kill what a bwrap left that failed: a child that waits for it for ever, now ours."""
        for pid in children_of(os.getpid()):
            if pid not in (*self.sandboxes, *self.processes, *self.helpers):
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
        self.kill_strays()
        if not sandbox.init:
            text = os.read(sandbox.pipes["stderr"], STDERR_BYTES).decode("utf-8", "replace")
            send(sandbox.sock, {"error": text.strip() or f"bwrap ended with status {status}"})
        for name in tuple(sandbox.pipes):
            self.forget(sandbox.pipes[name])
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
        self.forget(sandbox.sock.fileno())
        sandbox.sock.close()

    def finish(self) -> None:
        """Remove the control groups, which outlive processes, and so wait for the end of those."""
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


def fork_by_another(init_fd: int) -> int:
    """Fork a child in another process namespace, by way of a process that stays there.

    It ends at once, and its child is adopted by this process.
    """
    read, write = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            linux.setns(init_fd, linux.CLONE_NEWPID)
            pid = os.fork()
        except OSError:
            os._exit(1)
        if pid == 0:
            return 0
        os.write(write, str(pid).encode())
        os._exit(0)
    os.close(write)
    try:
        text = os.read(read, 32)
    finally:
        os.close(read)
        os.waitpid(between, 0)
    if not text:
        raise OSError(errno.ESRCH, "the sandbox is gone")
    return int(text)


def enter_user_namespace() -> None:
    """Get the right to mount and to join, as an ordinary user: where the user is itself."""
    uid, gid = os.getuid(), os.getgid()
    linux.unshare(linux.CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def main() -> None:
    """Run for the owner that is named on the command line."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    linux.adopt_orphans()
    if os.geteuid() != 0:
        enter_user_namespace()
    gc.disable()  # forks then share their pages, and nothing here makes cycles that last
    gc.freeze()
    launcher = Launcher(control, int(sys.argv[2]))
    try:
        launcher.run()
    finally:
        launcher.finish()


main()
