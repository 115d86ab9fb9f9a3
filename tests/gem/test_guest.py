"""The process that environments are forked from: how it starts, what they share, how it ends."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rock_gym.errors import EnvError, EnvUnavailable, PoolClosed, SandboxLost, StartFailed
from rock_gym.gem import guests
from rock_gym.gem.guests import Guest
from rock_gym.gem.interpreter import GuestPython, find_guest_python
from rock_gym.gem.worker import EnvConfig, EnvWorker, lease_worker
from tests.contract.support import eventually, within
from tests.gem.conftest import USER_ENVS, Lease, make_pool
from tests.gem.local import LocalPool, kill, pid_of

GAME = "game:GuessTheNumber-v0-easy"
PROBE = "probe:Probe"


@pytest.fixture
def probe(lease: Lease) -> EnvWorker:
    """An environment that does what the action says, reset."""
    worker = lease(PROBE)
    worker.reset(1)
    return worker


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def guest_of(worker: EnvWorker) -> int:
    return parent_of(pid_of(worker))


class TestEnvironmentProcesses:
    def test_there_is_one_per_environment(self, lease: Lease) -> None:
        workers = [lease(GAME) for _ in range(4)]
        for worker in workers:
            worker.reset(1)
        assert len({pid_of(worker) for worker in workers}) == 4
        assert len({guest_of(worker) for worker in workers}) == 1

    def test_they_hold_their_own_socket_alone(self, lease: Lease, probe: EnvWorker) -> None:
        """Neither the others' nor the guest's."""
        others = [lease(PROBE) for _ in range(3)]
        for worker in (*others, probe):
            worker.reset(1)
        for worker in (*others, probe):
            held = worker.step("descriptors").observation.splitlines()
            assert len([name for name in held if name.startswith("socket:")]) == 1
            assert {name for name in held if not name.startswith("socket:")} == {"/dev/null"}

    def test_what_they_print_goes_nowhere(self, probe: EnvWorker) -> None:
        """However much it is."""
        for _ in range(3):
            assert probe.step("print", 20).observation == "printed"

    @pytest.mark.parametrize("gem_id", ["rg:bf", "rg:codeio"])
    def test_gems_own_noise(self, lease: Lease, gem_id: str) -> None:
        worker = lease(gem_id)
        for seed in range(20):
            worker.reset(seed)
            assert worker.step("\\boxed{1}").terminated

    def test_their_subprocesses_have_true_exit_codes(self, probe: EnvWorker) -> None:
        assert probe.step("false").observation == "1"

    def test_nothing_of_ours_hides_a_users_module(self, probe: EnvWorker) -> None:
        names = "guest plain supplies wire words rock_gym"
        assert probe.step(f"modules {names}").observation == ""
        path = probe.step("path").observation.splitlines()
        assert path[0] == USER_ENVS
        assert "" not in path
        assert probe.sandbox.run_dir not in path

    def test_a_users_environment_starts_in_the_work_directory(self, probe: EnvWorker) -> None:
        assert probe.step("where").observation == probe.sandbox.workdir

    def test_gems_own_have_a_directory_each(self, lease: Lease) -> None:
        """Files that one's code leaves behind are not found by another's; they go when it goes."""
        workers = [lease("rg:codeio") for _ in range(2)]
        for worker in workers:
            worker.reset(1)
        directories = {os.readlink(f"/proc/{pid_of(worker)}/cwd") for worker in workers}
        assert len(directories) == 2

    def test_they_end_when_the_host_hangs_up(self, probe: EnvWorker) -> None:
        pid = pid_of(probe)
        assert probe._channel is not None
        probe._channel.close()
        assert eventually(lambda: not os.path.exists(f"/proc/{pid}"))
        assert probe.reset(1)

    def test_the_kernel_tells_whose_they_are(self, probe: EnvWorker) -> None:
        """The pid is that of this side."""
        assert "_rock_gym_guest" in Path(f"/proc/{pid_of(probe)}/cmdline").read_text()


@pytest.mark.usefixtures("quick")
class TestLosses:
    def test_a_guest_that_is_killed(self, lease_own: Lease) -> None:
        """It takes its environments along, and the next lease has another."""
        one, other = lease_own(GAME), lease_own(GAME)
        one.reset(1)
        other.reset(1)
        lost = guest_of(one)
        kill(lost)
        for worker in (one, other):
            with within(5), pytest.raises(SandboxLost):
                worker.step("a")
            with pytest.raises(SandboxLost):
                worker.reset(1)
            worker.close()
        fresh = lease_own(GAME)
        assert fresh.reset(1)
        assert guest_of(fresh) != lost

    def test_a_guest_that_is_killed_while_idle(self, lease_own: Lease) -> None:
        worker = lease_own(GAME)
        worker.reset(1)
        lost = guest_of(worker)
        worker.close()
        kill(lost)
        assert lease_own(GAME).reset(1)

    def test_a_sandbox_that_is_stopped(self, lease_own: Lease) -> None:
        worker = lease_own(GAME)
        worker.reset(1)
        worker.sandbox.stop()
        with within(5), pytest.raises(SandboxLost):
            worker.step("a")
        worker.close()
        assert lease_own(GAME).reset(1)

    def test_a_guest_that_cannot_fork(self, kind: str) -> None:
        """The limit on processes is named, and a place that is given up helps."""
        config = EnvConfig(GAME)
        with make_pool(kind, pids=20) as pool:
            workers = [lease_worker(config, pool) for _ in range(15)]
            for worker in workers:
                worker.reset(1)
            extra = [lease_worker(config, pool) for _ in range(10)]
            with pytest.raises(EnvError, match="limit on processes"):
                extra[-1].reset(1)
            for worker in workers:
                worker.close()
            assert eventually(lambda: resets(extra[-1]))
            for worker in extra:
                worker.close()


def resets(worker: EnvWorker) -> bool:
    try:
        return bool(worker.reset(1))
    except EnvError:
        return False


@pytest.mark.usefixtures("quick")
class TestSharing:
    def test_games_share_and_what_executes_does_not(self, lease_own: Lease, own_pool: Any) -> None:
        games = [lease_own(gem_id, None) for gem_id in (GAME, "rg:gcd", "game:Sudoku-v0-easy")]
        assert len({worker.sandbox.id for worker in games}) == 1
        alone = [lease_own(gem_id, None) for gem_id in ("rg:n_queens", "rg:n_queens")]
        assert len({worker.sandbox.id for worker in (*games, *alone)}) == 3

    def test_a_full_sandbox_is_followed_by_another(self, lease_own: Lease) -> None:
        workers = [lease_own(GAME, 2) for _ in range(5)]
        assert [worker.sandbox.id for worker in workers].count(workers[0].sandbox.id) == 2
        assert len({worker.sandbox.id for worker in workers}) == 3

    def test_a_place_that_was_given_up_is_taken_again(self, lease_own: Lease) -> None:
        first, second = lease_own(GAME, 2), lease_own(GAME, 2)
        first.close()
        first.close()
        third = lease_own(GAME, 2)
        assert third.sandbox is second.sandbox
        assert lease_own(GAME, 2).sandbox is not second.sandbox

    def test_one_guest_stays_warm(self, lease_own: Lease) -> None:
        worker = lease_own(GAME)
        worker.reset(1)
        guest = guest_of(worker)
        worker.close()
        again = lease_own(GAME)
        again.reset(1)
        assert guest_of(again) == guest

    def test_only_one(self, lease_own: Lease, own_pool: Any) -> None:
        workers = [lease_own(GAME, 2) for _ in range(6)]
        sandboxes = {worker.sandbox for worker in workers}
        for worker in workers:
            worker.close()
        assert [sandbox.is_alive() for sandbox in sandboxes].count(True) == 1

    def test_what_was_alone_is_not_used_again(self, lease_own: Lease) -> None:
        worker = lease_own("rg:n_queens", None)
        worker.reset(1)
        sandbox = worker.sandbox
        worker.close()
        assert not sandbox.is_alive()
        assert lease_own("rg:n_queens", None).sandbox is not sandbox

    def test_many_at_once_wait_for_one(self) -> None:
        """The first brings the guest up, and the others do not start theirs."""
        with LocalPool() as pool, ThreadPoolExecutor(16) as threads:
            config = EnvConfig(GAME)
            workers = list(threads.map(lambda _: lease_worker(config, pool, 64), range(16)))
            assert pool.started == 1
            assert len({worker.reset(1)[0] for worker in workers}) == 1
            for worker in workers:
                worker.close()

    def test_they_all_hear_of_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guests, "_BOOT", "raise SystemExit('no GEM today')")
        with LocalPool() as pool, ThreadPoolExecutor(8) as threads:
            config = EnvConfig(GAME)
            asked = [threads.submit(lease_worker, config, pool, 64) for _ in range(8)]
            for one in asked:
                with pytest.raises(StartFailed, match="no GEM today"):
                    one.result(30)
            assert not pool.leased

    def test_a_pool_that_was_closed(self) -> None:
        pool = LocalPool()
        worker = lease_worker(EnvConfig(GAME), pool)
        worker.reset(1)
        pid = pid_of(worker)
        pool.close()
        with pytest.raises(SandboxLost):
            worker.step("a")
        worker.close()
        assert eventually(lambda: not os.path.exists(f"/proc/{pid}"))
        with pytest.raises(PoolClosed):
            lease_worker(EnvConfig(GAME), pool)


class TestStarting:
    def start(self, python: GuestPython, timeout_s: float = 30.0) -> None:
        with LocalPool() as pool:
            Guest(pool.acquire(), python, timeout_s).close()

    def test_an_interpreter_without_gem(self) -> None:
        python = find_guest_python()
        here = [path for path in python.site_dirs if not os.path.isdir(f"{path}/gem")]
        with pytest.raises((StartFailed, EnvUnavailable), match=r"gem|msgspec"):
            self.start(GuestPython(python.executable, tuple(here), (), None))

    def test_an_interpreter_that_is_no_python(self) -> None:
        with pytest.raises(StartFailed):
            self.start(GuestPython("/bin/false", (), (), None))

    def test_one_that_takes_too_long(self) -> None:
        with within(10), pytest.raises(StartFailed, match="in time"):
            self.start(find_guest_python(), 0.01)

    def test_a_hash_seed_that_is_not_fixed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(guests._ENVIRONMENT, "PYTHONHASHSEED", "random")
        with pytest.raises(EnvUnavailable, match="PYTHONHASHSEED"):
            self.start(find_guest_python())


@pytest.mark.usefixtures("quick")
class TestOwners:
    def test_a_forked_child_lets_go(self, lease_own: Lease) -> None:
        """It holds none of our sockets, and what it does with the worker does us no harm."""
        worker = lease_own(GAME)
        worker.reset(1)
        fds = {worker.fileno(), worker._guest._control.fileno()}
        pid = os.fork()
        if pid == 0:
            held = {int(name) for name in os.listdir("/proc/self/fd")}
            worker.close()
            gc.collect()
            os._exit(len(fds & held))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert worker.step("a").observation == "a"

    def test_a_worker_that_nobody_closed(self, lease_own: Lease, own_pool: Any) -> None:
        worker = lease_worker(EnvConfig(GAME), own_pool)
        worker.reset(1)
        pid = pid_of(worker)
        workers = [worker]
        del worker
        with pytest.warns(ResourceWarning, match="never closed"):
            workers.clear()
        assert eventually(lambda: not os.path.exists(f"/proc/{pid}"))

    def test_closing_from_another_thread(self, lease_own: Lease) -> None:
        """It ends what the worker waits for."""
        worker = lease_own(GAME)
        worker.reset(1)
        worker.send_step("hang")
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(worker.receive, 60)
            assert eventually(worker._using.locked)
            worker.close()
            with within(10), pytest.raises(Exception, match="closed"):
                waiting.result(30)

    def test_a_closed_worker(self, lease_own: Lease) -> None:
        worker = lease_own(GAME)
        worker.close()
        with pytest.raises(Exception, match="closed"):
            worker.reset(1)

    def test_a_kill_of_the_owner_ends_everything(self, tmp_path: Path) -> None:
        """Though it could clean nothing up."""
        code = (
            "import sys; from tests.gem.local import LocalPool\n"
            "from rock_gym.gem.worker import *\n"
            "worker = lease_worker(EnvConfig('rg:number_sequence'), LocalPool())\n"
            "worker.reset(0); worker.send_reset(3)\n"
            "print(worker.pid, flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()},
        ) as owner:
            assert owner.stdout is not None
            pid = int(owner.stdout.readline())
            owner.send_signal(signal.SIGKILL)
            owner.wait()
        assert eventually(lambda: not os.path.exists(f"/proc/{pid}"))


READ_OTHERS = """
import os
for pid in os.listdir("/proc"):
    if not pid.isdigit() or int(pid) == os.getpid():
        continue
    try:
        line = open(f"/proc/{pid}/cmdline").read()
    except OSError:
        continue
    for name in ("mem", "maps", "environ", "fd"):
        try:
            path = f"/proc/{pid}/{name}"
            if name == "fd":
                [os.readlink(entry.path) for entry in os.scandir(path)]
            else:
                open(path, "rb").read(1)
            print(name, "open", "guest" if "_rock_gym_guest" in line else "other")
        except PermissionError:
            print(name, "closed", "guest" if "_rock_gym_guest" in line else "other")
        except OSError as error:
            print(name, "open", "guest" if "_rock_gym_guest" in line else "other", error)
"""


def test_graders_cannot_be_looked_into(lease: Lease) -> None:
    """Code that an action runs is of the same user, and must not read what it is graded by."""
    workers = [lease(GAME) for _ in range(2)]
    for worker in workers:
        worker.reset(1)
    python = "python3" if workers[0].sandbox.backend == "docker" else sys.executable
    seen = workers[0].sandbox.execute([python, "-I", "-S", "-c", READ_OTHERS]).stdout
    lines = [line.split() for line in seen.splitlines() if line.split()[2] == "guest"]
    assert len(lines) >= 4 * 3
    assert {line[1] for line in lines} == {"closed"}
