"""The launcher: one lean process per owner that starts bwrap and joins processes to sandboxes.

It is a program of its own, run as ``python -I -S <this directory> FD PID``: the standard library
only, one thread, no state on disk. FD is a SOCK_SEQPACKET socket to its owner, PID the owner.

Ownership is by descriptor. For each sandbox the owner keeps one end of a socket and the launcher
the other: requests come over it, its end of file kills the sandbox, and the launcher closes it
when everything in the sandbox is dead. For each process inside there is a socket as well: it
carries the answer to the request and, later, the exit code. When the launcher itself ends, for
whatever reason, the kernel kills every bwrap (``--die-with-parent``) and all below it.

Why a process of its own: joining a user namespace needs a single-threaded process, bwrap's
parent-death signal follows the *thread* that started it, and a fork costs what its parent weighs.
"""

import array
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

import inside
import linux
import stage

MAX_FDS = 16
MESSAGE_BYTES = 131072
STDERR_BYTES = 4096
PF_EXITING = 0x4


def send(sock: socket.socket, message: dict[str, object]) -> None:
    """Send to the owner; one that does not listen any more needs no answer."""
    try:
        sock.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)
    except OSError:
        pass


def receive(sock: socket.socket) -> tuple[dict | None, list[int]]:
    """Receive a request and its descriptors; None when the owner has closed its end."""
    # Not socket.recv_fds: it ignores its flags, and these must not reach what is exec'd here.
    room = socket.CMSG_LEN(MAX_FDS * 4)
    data, ancillary, _, _ = sock.recvmsg(MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    received = array.array("i")
    for _, _, part in ancillary:
        received.frombytes(part)
    fds = list(received)
    if not data:
        return None, fds
    if data == b"+":  # too long for one packet: the text is in a file, passed last
        with os.fdopen(fds.pop(), "rb") as file:
            file.seek(0)
            data = file.read()
    return json.loads(data), fds


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


class Sandbox:
    """One bwrap and what it takes to join it."""

    def __init__(self, sock: socket.socket, request: dict) -> None:
        self.sock = sock
        self.request = request
        self.bwrap = 0
        self.init = 0
        self.init_fd = -1
        self.info = b""
        self.ready = False
        self.pipes: dict[str, int] = {}

    def close_pipe(self, name: str) -> int:
        """Close one of the pipes to bwrap. Returns the descriptor, to be forgotten elsewhere."""
        fd = self.pipes.pop(name, -1)
        if fd >= 0:
            os.close(fd)
        return fd


class Opening:
    """A process that is being joined to a sandbox."""

    def __init__(self, sandbox: Sandbox, sock: socket.socket) -> None:
        self.sandbox = sandbox
        self.sock = sock
        self.reports = b""


class Launcher:
    """The event loop."""

    def __init__(self, control: socket.socket, owner: int) -> None:
        self.poll = select.epoll()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.sandboxes: dict[int, Sandbox] = {}  # by the pid of bwrap
        self.processes: dict[int, Opening] = {}  # by the pid of the joined process
        self.joiners: set[int] = set()  # those between, whose ends nobody asks for
        self.early_exits: dict[int, int] = {}  # reaped before we knew whose they were
        self.control = control
        self.seccomp = b""
        self.templates: dict[str, stage.Template] = {}
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
            for fd, _ in self.poll.poll(maxevents=1):
                self.handlers[fd]()

    # Requests

    def on_control(self) -> None:
        """Take a request from the owner: the filter, or a new sandbox."""
        request, fds = receive(self.control)
        if request is None:
            sys.exit(0)
        if request["op"] == "seccomp":
            self.seccomp = bytes.fromhex(request["program"])
            return
        sandbox = Sandbox(socket.socket(fileno=fds[0]), request)
        try:
            self.start(sandbox)
        except OSError as error:
            send(sandbox.sock, {"error": str(error)})
            sandbox.sock.close()

    def start(self, sandbox: Sandbox) -> None:
        """Fork, and run bwrap in the child; the answer is sent when its payload says so."""
        template = self.template(sandbox.request["plan"])
        names = ("stdin", "ready", "stderr", "info")
        pipes = {name: os.pipe() for name in names}
        seccomp = os.memfd_create("seccomp")  # bwrap reads it to its end, so each has its own
        os.write(seccomp, self.seccomp)
        os.lseek(seccomp, 0, os.SEEK_SET)
        theirs = [pipes["stdin"][0], pipes["ready"][1], pipes["stderr"][1], pipes["info"][1]]
        theirs.append(seccomp)
        sandbox.bwrap = os.fork()
        if sandbox.bwrap == 0:
            stage.run_bwrap(sandbox.request, template, theirs)
        for fd in theirs:
            os.close(fd)
        sandbox.pipes = {name: pipes[name][0] for name in names[1:]}
        sandbox.pipes["stdin"] = pipes["stdin"][1]
        self.sandboxes[sandbox.bwrap] = sandbox
        self.watch(sandbox.pipes["info"], lambda: self.on_info(sandbox))
        self.watch(sandbox.pipes["ready"], lambda: self.on_ready(sandbox))
        self.watch(sandbox.sock.fileno(), lambda: self.on_sandbox(sandbox))

    def template(self, plan: dict) -> stage.Template:
        """Return what sandboxes of this plan start from, built when it is first asked for."""
        if plan["key"] not in self.templates:
            self.templates[plan["key"]] = stage.Template(plan)
        return self.templates[plan["key"]]

    def on_info(self, sandbox: Sandbox) -> None:
        """Learn the pid of the sandbox's init from bwrap."""
        data = os.read(sandbox.pipes["info"], 4096)
        sandbox.info += data
        if data:
            return
        self.forget(sandbox.pipes["info"])
        sandbox.close_pipe("info")
        if not sandbox.info:
            return  # it failed early; its exit tells
        pid = json.loads(sandbox.info)["child-pid"]
        try:
            sandbox.init_fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return  # it died at once; bwrap's exit tells
        sandbox.init = pid
        self.answer_start(sandbox)

    def on_ready(self, sandbox: Sandbox) -> None:
        """Notice that the payload runs, so that all mounts are in place."""
        data = os.read(sandbox.pipes["ready"], 16)
        self.forget(sandbox.pipes["ready"])
        sandbox.close_pipe("ready")
        sandbox.ready = bool(data)
        self.answer_start(sandbox)

    def answer_start(self, sandbox: Sandbox) -> None:
        """Tell the owner, once both the pid and the payload's word are there."""
        if sandbox.ready and sandbox.init:
            # Unread, this pipe would let the payload block; closed, it costs nothing.
            sandbox.close_pipe("stderr")
            send(sandbox.sock, {"pid": sandbox.init})

    def on_sandbox(self, sandbox: Sandbox) -> None:
        """Take a request for one sandbox, or its owner's end of file."""
        request, fds = receive(sandbox.sock)
        if request is None:
            self.forget(sandbox.sock.fileno())
            self.kill(sandbox)
            return
        opening = Opening(sandbox, socket.socket(fileno=fds[0]))
        report, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            inside.join(request, sandbox.init_fd, fds, theirs, self.seccomp)
        self.joiners.add(pid)
        os.close(theirs)
        for fd in fds[1:]:
            os.close(fd)
        self.watch(report, lambda: self.on_report(opening, report))

    def on_report(self, opening: Opening, report: int) -> None:
        """Follow a joining process: first its pid, then an error or the end of file of exec."""
        data = os.read(report, 4096)
        if data:
            opening.reports += data
            return
        self.forget(report)
        os.close(report)
        answer: dict = {}
        for line in opening.reports.splitlines():
            answer.update(json.loads(line))
        send(opening.sock, answer or {"error": "lost", "text": "the sandbox ended"})
        pid = int(answer.get("pid", 0))
        status = self.early_exits.pop(pid, None)
        if "error" in answer or not pid:
            opening.sock.close()
            if pid and status is None:
                self.joiners.add(pid)
        elif status is None:
            self.processes[pid] = opening
        else:
            self.tell_exit(opening, status)

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
                return
            if pid == 0:
                return
            if pid in self.sandboxes:
                self.end(self.sandboxes.pop(pid), status)
            elif pid in self.processes:
                self.tell_exit(self.processes.pop(pid), status)
            elif pid in self.joiners:
                self.joiners.remove(pid)
            else:
                self.early_exits[pid] = status

    def tell_exit(self, opening: Opening, status: int) -> None:
        """Send an exit code, unless the process only died because its sandbox did."""
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL and is_dying(opening.sandbox.init):
            send(opening.sock, {"lost": True})
        else:
            send(opening.sock, {"exit": code if code >= 0 else 128 - code})
        opening.sock.close()

    def kill(self, sandbox: Sandbox) -> None:
        """Kill a sandbox: its init, whose end takes all others along, and bwrap after it."""
        if sandbox.init_fd >= 0:
            try:
                signal.pidfd_send_signal(sandbox.init_fd, signal.SIGKILL)
            except ProcessLookupError:
                pass
        elif sandbox.bwrap in self.sandboxes:
            os.kill(sandbox.bwrap, signal.SIGKILL)

    def end(self, sandbox: Sandbox, status: int) -> None:
        """Tell the owner that bwrap, and so everything inside, is gone."""
        if not (sandbox.ready and sandbox.init):
            text = os.read(sandbox.pipes["stderr"], STDERR_BYTES).decode("utf-8", "replace")
            send(sandbox.sock, {"error": text.strip() or f"bwrap ended with status {status}"})
        for name in tuple(sandbox.pipes):
            self.forget(sandbox.pipes[name])
            sandbox.close_pipe(name)
        if sandbox.init_fd >= 0:
            os.close(sandbox.init_fd)
            sandbox.init_fd = -1
        self.forget(sandbox.sock.fileno())
        sandbox.sock.close()


def main() -> None:
    """Run for the owner that is named on the command line."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    linux.adopt_orphans()
    linux.forbid_inspection()
    gc.disable()  # forks then share their pages, and nothing here makes cycles that last
    gc.freeze()
    Launcher(control, int(sys.argv[2])).run()


main()
