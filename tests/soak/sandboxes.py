"""One who works in a sandbox, and one who works with a pool, while things break."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rock_gym import Sandbox, SandboxPool
from rock_gym.errors import (
    CommandTimeout,
    FileError,
    PoolExhausted,
    SandboxClosed,
    SandboxLost,
    SessionClosed,
    SpecError,
)
from tests.contract.support import eventually, members, namespace_members
from tests.soak.ledger import Diary, Ledger, ensure, kill

BROKEN = (CommandTimeout, FileError, SandboxClosed, SandboxLost, SessionClosed)
LIMITS = {"memory": "96m", "pids": 64, "disk": "16m"}
KILLED = 128 + 9
FORK_BOMB = "for i in $(seq 1 200); do sleep 20 & done; exit 3"
HOG = "head -c 400000000 /dev/zero | tail -c 300000000 >/dev/null"


class Actor:
    """Does one thing after another, by a seed. What is called ``fault_`` breaks something."""

    def __init__(self, backend: str, seed: int, ledger: Ledger) -> None:
        self.backend = backend
        self.ledger = ledger
        self.random = random.Random(f"{seed} {backend} {type(self).__name__}")
        self.diary = Diary(f"{type(self).__name__} on {backend}")

    def actions(self) -> dict[Callable[[], None], int]:
        """What it does, with how often."""
        raise NotImplementedError

    def turn(self) -> None:
        """Do one thing."""
        actions = self.actions()
        (action,) = self.random.choices(list(actions), list(actions.values()))
        name = action.__name__
        self.diary.note(name)
        is_fault = name.startswith("fault_")
        if is_fault:
            self.ledger.add(self.ledger.faults, name.removeprefix("fault_"))
        action()
        if is_fault:
            self.check_recovery()
            self.ledger.add(self.ledger.survived, name.removeprefix("fault_"))
        else:
            self.ledger.add(self.ledger.operations, name)

    def check_recovery(self) -> None:
        """See that it can go on, if need be with something fresh."""

    def close(self) -> None:
        raise NotImplementedError


class Worker(Actor):
    """Uses one sandbox at a time, and knows what must be in it."""

    sandbox: Sandbox

    def __init__(self, backend: str, seed: int, ledger: Ledger) -> None:
        super().__init__(backend, seed, ledger)
        self.start()

    def start(self) -> None:
        self.sandbox = Sandbox.start(backend=self.backend, **LIMITS)
        self.namespace = self.sandbox.execute("readlink /proc/self/ns/pid").stdout.strip()
        self.files: dict[str, bytes] = {}
        self.begin_session()

    def begin_session(self) -> None:
        self.session = self.sandbox.create_session(f"s{self.random.random()}")
        self.count = 0

    def actions(self) -> dict[Callable[[], None], int]:
        return {
            self.command: 12,
            self.command_in_session: 12,
            self.many_commands: 3,
            self.stream_left_early: 3,
            self.write: 8,
            self.read: 8,
            self.statistics: 3,
            self.restart: 1,
            self.nonsense: 6,
            self.fault_timeout: 3,
            self.fault_shell_killed: 2,
            self.fault_everything_killed_from_inside: 2,
            self.fault_process_killed_from_outside: 2,
            self.fault_sandbox_killed: 2,
            self.fault_deleted_meanwhile: 1,
            self.fault_flood: 1,
            self.fault_fork_bomb: 1,
            self.fault_full_disk: 1,
            self.fault_memory: 1,
        }

    # What must work

    def command(self) -> None:
        word, code = str(self.random.random()), self.random.randrange(128)
        result = self.sandbox.execute(f"echo {word}; echo not {word} >&2; exit {code}", timeout=60)
        told = (result.stdout, result.stderr, result.exit_code)
        ensure(told == (f"{word}\n", f"not {word}\n", code), f"a command told {result}")

    def command_in_session(self) -> None:
        self.count += 1
        result = self.session.run("n=$((n+1)); echo $n; (exit 9)", timeout=60)
        told = (result.output, result.exit_code)
        ensure(told == (f"{self.count}\n", 9), f"a session told {result}, turn {self.count}")

    def many_commands(self) -> None:
        with ThreadPoolExecutor(4) as threads:
            runs = [threads.submit(self.sandbox.execute, f"echo {n}", timeout=60) for n in range(8)]
        told = [run.result().stdout for run in runs]
        ensure(told == [f"{n}\n" for n in range(8)], f"many commands told {told}")

    def stream_left_early(self) -> None:
        with self.sandbox.stream("echo first; sleep 600", timeout=60) as stream:
            ensure(next(iter(stream)).text.startswith("first"), "the first of a stream")

    def write(self) -> None:
        name = f"folder {self.random.randrange(3)}/file {self.random.randrange(3)}"
        content = self.random.randbytes(self.random.choice((0, 1, 4096, 100_000)))
        self.sandbox.write_file(name, content)
        self.files[name] = content

    def read(self) -> None:
        for name, content in self.files.items():
            ensure(self.sandbox.read_file(name, encoding=None) == content, f"{name} has changed")

    def statistics(self) -> None:
        ensure(self.sandbox.is_alive(), "it lives and says it does not")
        ensure(self.sandbox.statistics().processes != 0, "no processes")
        ensure(self.sandbox.status().state == "running", "it runs and says it does not")

    def restart(self) -> None:
        self.sandbox.stop()
        with self.ledger.refusal("use of a stopped sandbox", SandboxClosed):
            self.sandbox.execute("true")
        self.sandbox.restart()
        self.namespace = self.sandbox.execute("readlink /proc/self/ns/pid").stdout.strip()
        with self.ledger.refusal("use of an ended session", SessionClosed):
            self.session.run("true")
        self.begin_session()
        self.read()

    def nonsense(self) -> None:
        sandbox, refusal = self.sandbox, self.ledger.refusal
        with refusal("argument without sense", SpecError):
            self.random.choice(
                (
                    lambda: sandbox.execute("true", timeout=-1),
                    lambda: sandbox.execute([]),
                    lambda: sandbox.execute("a\0b"),
                    lambda: sandbox.execute("true", env={"A=B": "c"}),
                    lambda: sandbox.create_session(""),
                    lambda: sandbox.write_file("a\0b", "x"),
                    lambda: Sandbox.start(backend=self.backend, memory="much"),
                    lambda: Sandbox.start(backend=self.backend, pids=-3),
                )
            )()
        with refusal("file that is not there", FileError):
            sandbox.read_file("nowhere/at all")
        with refusal("file that is a folder", FileError):
            sandbox.read_file("/tmp")
        with refusal("session that is not there", SessionClosed):
            sandbox.run_in_session("no such", "true")

    # What breaks

    def fault_timeout(self) -> None:
        with self.ledger.perhaps(CommandTimeout):
            self.sandbox.execute("trap '' TERM INT; sleep 600 & wait; sleep 600", timeout=0.2)
            ensure(False, "a command outlived its limit")
        with self.ledger.perhaps(CommandTimeout):
            self.session.run("sleep 600", timeout=0.2)
            ensure(False, "a command in a session outlived its limit")

    def fault_shell_killed(self) -> None:
        with self.ledger.perhaps(SessionClosed, SandboxLost):
            result = self.session.run("kill -9 $$", timeout=20)
            ensure(result.exit_code != 0, "a killed shell told 0")

    def fault_everything_killed_from_inside(self) -> None:
        with self.ledger.perhaps(*BROKEN):
            self.sandbox.execute("for i in 1 2 3; do kill -9 -1; done", timeout=20)

    def fault_process_killed_from_outside(self) -> None:
        kill(set(self.random.sample(sorted(namespace_members(self.namespace)), 1)))

    def fault_sandbox_killed(self) -> None:
        """At once, or while a command runs."""
        delay = self.random.choice((0.0, 0.0, self.random.random() * 0.1))
        pids = namespace_members(self.namespace)
        if delay == 0.0:
            kill(pids)
            return
        with self.ledger.soon(delay, lambda: kill(pids)), self.ledger.perhaps(*BROKEN):
            # If it was killed before its sandbox was, it may tell so.
            code = self.sandbox.execute("sleep 60", timeout=30).exit_code
            ensure(code == KILLED, f"a command that was killed told {code}")

    def fault_deleted_meanwhile(self) -> None:
        delay = self.random.random() * 0.2
        with (
            self.ledger.soon(delay, self.sandbox.delete),
            self.ledger.perhaps(SandboxClosed, SandboxLost),
        ):
            self.sandbox.execute("sleep 60", timeout=30)
            ensure(False, "a command in a deleted sandbox told of success")

    def fault_flood(self) -> None:
        with self.ledger.perhaps(*BROKEN):
            result = self.sandbox.execute("head -c 30000000 /dev/zero; echo end", timeout=30)
            ensure(result.truncated, "a flood was kept whole")
            ensure(result.stdout.endswith("end\n"), "the end of a flood is missing")

    def fault_fork_bomb(self) -> None:
        with self.ledger.perhaps(*BROKEN):
            self.sandbox.execute(["/bin/sh", "-c", FORK_BOMB], timeout=1)
        with self.ledger.perhaps(*BROKEN):  # what it has started lives on, and takes all there is
            self.sandbox.execute(["/bin/sh", "-c", "kill -9 -1"], timeout=20)

    def fault_full_disk(self) -> None:
        with self.ledger.perhaps(*BROKEN):
            result = self.sandbox.execute("head -c 100M /dev/zero >full", timeout=30)
            ensure(result.exit_code != 0, "a full disk took more")
            self.sandbox.execute("rm full", timeout=30)

    def fault_memory(self) -> None:
        with self.ledger.perhaps(*BROKEN):
            result = self.sandbox.execute(["/bin/sh", "-c", HOG], timeout=30)
            ensure(result.exit_code != 0, "memory has no limit")

    def check_recovery(self) -> None:
        """What still lives must be whole; what does not must say so, and be replaceable."""
        try:
            ensure(self.sandbox.execute("echo on", timeout=20).stdout == "on\n", "no answer")
            self.read()
            if self.session.is_alive():
                self.session.close()
            with self.ledger.refusal("use of an ended session", SessionClosed):
                self.session.run("true", timeout=20)
            self.begin_session()
        except BROKEN as error:
            self.ledger.add(self.ledger.errors, type(error).__name__)
            # Its backend may hear of a death a moment after the kernel, and kills without waiting.
            ensure(
                isinstance(error, CommandTimeout | FileError)
                or eventually(lambda: not self.sandbox.is_alive(), 60),
                f"it lives, and told {error!r}",
            )
            self.sandbox.delete()
            ensure(
                eventually(lambda: not namespace_members(self.namespace), 60),
                "a deleted sandbox has processes",
            )
            self.start()

    def close(self) -> None:
        self.sandbox.delete()


class Lender(Actor):
    """Uses a pool, whose sandboxes break while they are lent."""

    def __init__(self, backend: str, seed: int, ledger: Ledger) -> None:
        super().__init__(backend, seed, ledger)
        self.pool = SandboxPool(backend=backend, min_idle=1, max_size=3)

    def actions(self) -> dict[Callable[[], None], int]:
        return {
            self.one: 8,
            self.commands_over_all: 5,
            self.several: 2,
            self.resize: 1,
            self.exhausted: 1,
            self.work_that_fails: 2,
            self.fault_lent_sandbox_killed: 3,
            self.fault_spare_killed: 2,
        }

    def one(self) -> None:
        with self.pool.acquire(timeout=120) as sandbox:
            told = sandbox.execute("cat mine 2>/dev/null; echo x >mine; echo fresh", timeout=60)
            ensure(told.stdout == "fresh\n", f"a used sandbox was lent: {told}")

    def commands_over_all(self) -> None:
        results = self.pool.execute([f"echo {n}" for n in range(5)], timeout=120)
        told = [getattr(result, "stdout", result) for result in results]
        ensure(told == [f"{n}\n" for n in range(5)], f"commands over a pool told {told}")

    def several(self) -> None:
        with self.pool.acquire_many(2, timeout=120) as sandboxes:
            ensure(len({sandbox.id for sandbox in sandboxes}) == 2, "the same sandbox twice")

    def resize(self) -> None:
        self.pool.resize(min_idle=self.random.randrange(3), max_size=3)

    def exhausted(self) -> None:
        with self.pool.acquire_many(3, timeout=120):
            with self.ledger.refusal("more than a pool holds", PoolExhausted):
                self.pool.acquire(timeout=0.05)
            with self.ledger.refusal("more than a pool holds", PoolExhausted):
                self.pool.acquire(exhausted="fail")

    def work_that_fails(self) -> None:
        class Mine(Exception):
            pass

        def work(*_: object) -> None:
            raise Mine

        with self.ledger.refusal("work that raises", Mine):
            self.pool.map(work, [1, 2])

    def fault_lent_sandbox_killed(self) -> None:
        sandbox = self.pool.acquire(timeout=120)
        try:
            kill(members(sandbox))
            with self.ledger.perhaps(SandboxLost):
                sandbox.execute("true", timeout=20)
                ensure(False, "a dead sandbox answered")
        finally:
            self.pool.release(sandbox)

    def fault_spare_killed(self) -> None:
        for sandbox in tuple(self.pool._idle):
            with self.ledger.perhaps(SandboxLost):
                kill(members(sandbox))
                # Its backend may hear of it a moment after the kernel.
                ensure(
                    eventually(lambda dead=sandbox: not dead.is_alive(), 60), "a dead spare lives"
                )

    def check_recovery(self) -> None:
        self.one()

    def close(self) -> None:
        self.pool.close()
