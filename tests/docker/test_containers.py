"""Containers: images with little in them, profiles, limits, ends told apart, and the agent."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

import rock_gym
from rock_gym import Sandbox, SandboxPool
from rock_gym.backends.docker import backend as docker_backend
from rock_gym.backends.docker.engine import _explain
from rock_gym.backends.docker.owner import owner_label
from rock_gym.errors import (
    CommandTimeout,
    ImageNotFound,
    SandboxLost,
    SpecError,
    StartFailed,
    StepTimeout,
)
from rock_gym.gem.places import with_guest
from rock_gym.gem.worker import EnvConfig, lease_worker
from rock_gym.spec import SandboxSpec
from tests.contract.support import Owner, containers_of, eventually, members, within


class TestSmallImages:
    def test_a_shell_is_enough(self, start: Any, busybox: str) -> None:
        sandbox = start(busybox)
        result = sandbox.execute("echo out; echo err >&2; exit 7")
        assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 7)
        session = sandbox.create_session()
        session.run("x=5; cd /bin")
        assert session.run("echo $x; echo $PWD").output == "5\n/bin\n"
        assert session.run("(exit 4)").exit_code == 4
        sandbox.write_file("deep/er/f", "content")
        assert sandbox.read_file("deep/er/f") == "content"
        with within(5), pytest.raises(CommandTimeout):
            session.run("sleep 1000 & sleep 1000", timeout=0.3)
        assert session.run("echo $x").output == "5\n"

    @pytest.mark.parametrize("profile", ["default", "strict"])
    def test_folders_need_no_program_of_the_image(
        self, start: Any, busybox: str, tmp_path: Path, profile: str
    ) -> None:
        """Nor any right that the profile takes away."""
        (tmp_path / "in" / "inner").mkdir(parents=True)
        (tmp_path / "in" / "inner" / "f").write_text("content")
        (tmp_path / "in" / "link").symlink_to("inner/f")
        sandbox = start(busybox, profile=profile)
        up = sandbox.upload(tmp_path / "in", "t")
        assert sandbox.execute("cat t/link").stdout == "content"
        assert sandbox.download("t", tmp_path / "out") == up
        assert (tmp_path / "out" / "link").read_text() == "content"

    def test_it_survives_a_kill_of_everything(self, start: Any, busybox: str) -> None:
        sandbox = start(busybox)
        for _ in range(5):
            sandbox.execute("kill -9 -1; kill -9 1; kill -TERM 1; kill -STOP 1")
        assert sandbox.execute("echo alive").stdout == "alive\n"

    def test_orphans_are_reaped(self, start: Any, busybox: str) -> None:
        sandbox = start(busybox)
        sandbox.execute("for i in $(seq 30); do (sleep 0.05 &); done")
        states = "grep -l '^State:.Z' /proc/[0-9]*/status; echo"
        assert eventually(lambda: sandbox.execute(states).stdout.strip() == "")

    def test_an_image_without_a_shell(self, engine: Any, start: Any) -> None:
        tar = subprocess.run(["tar", "-c", "-T", "/dev/null"], capture_output=True, check=True)
        repository, tag = "rock-gym-test/empty", str(os.getpid())
        engine.api.import_image_from_data(tar.stdout, repository=repository, tag=tag)
        try:
            with pytest.raises(StartFailed, match="/bin/sh"):
                start(f"{repository}:{tag}")
        finally:
            engine.api.remove_image(f"{repository}:{tag}", force=True)
        assert not containers_of(os.getpid())


class TestProfiles:
    def test_the_default_lets_people_install_packages(self, start: Any) -> None:
        sandbox = start()
        for command in (
            "touch /usr/bin/planted /etc/planted",
            "chown 1234:1234 /etc/planted; su nobody -s /bin/sh -c 'id -un' | grep nobody",
            "cd /tmp && mkdir -p p/DEBIAN p/opt && echo x > p/opt/rock && printf '%s\\n' "
            "'Package: rock' 'Version: 1' 'Architecture: all' 'Maintainer: x' 'Description: x' "
            "> p/DEBIAN/control && dpkg-deb -b p p.deb && apt-get install -y ./p.deb && "
            "cat /opt/rock",
        ):
            result = sandbox.execute(command)
            assert result.exit_code == 0, result.stderr

    @pytest.mark.parametrize("profile", ["default", "strict"])
    def test_neither_reaches_past_the_container(self, start: Any, profile: str) -> None:
        code = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def denied(result):
    return result < 0
assert denied(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
assert denied(libc.unshare(0x10000000)) and denied(libc.unshare(0x20000))
assert denied(libc.syscall(425, 4, bytes(120))) and denied(libc.syscall(250, 0, -3, 1))
assert denied(libc.mknod(b"/tmp/dev", 0o60600, 0x800)) and denied(libc.chroot(b"/tmp"))
for family, kind in ((40, 1), (38, 5), (17, 3), (2, 3)):
    try: socket.socket(family, kind)
    except OSError: continue
    raise AssertionError((family, kind))
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/1/mem"):
    try: os.close(os.open(path, os.O_WRONLY))
    except OSError: continue
    raise AssertionError(path)
assert not os.path.exists("/var/run/docker.sock")
print("closed")
"""
        result = start(profile=profile).execute(["python3", "-I", "-S", "-c", code])
        assert result.stdout == "closed\n", result.stderr

    def test_a_user_has_terminals_too(self, start: Any, busybox: str) -> None:
        with start(busybox, profile="strict").open_pty(["sh", "-c", "tty; test -w $(tty)"]) as pty:
            assert pty.read().startswith(b"/dev/pts/0")
            assert pty.wait(10) == 0

    def test_what_the_engine_is_told(self, engine: Any, start: Any) -> None:
        """Never anything that opens it, whatever is asked for."""
        told = engine.inspect(start(cpus=0.5, memory="64m", pids=50, shm="8m")._container.container)
        host = told["HostConfig"]
        assert host["Privileged"] is False
        assert host["NetworkMode"] == "none"
        assert host["CapDrop"] == ["ALL"]
        assert not host["Binds"]
        assert not host["Devices"]
        assert host["PidMode"] == ""
        assert host["IpcMode"] == "private"
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert not [option for option in host["SecurityOpt"] if "unconfined" in option]
        assert (host["Memory"], host["MemorySwap"], host["ShmSize"]) == (
            64 << 20,
            64 << 20,
            8 << 20,
        )
        assert host["CpuQuota"] / host["CpuPeriod"] == 0.5
        assert told["Config"]["Labels"]["rock-gym.owner"]

    def test_variables_are_not_shown_to_the_engine(self, engine: Any, start: Any) -> None:
        sandbox = start(env={"TOKEN": "planted-secret"})
        assert sandbox.execute("echo $TOKEN").stdout == "planted-secret\n"
        assert "planted-secret" not in str(engine.inspect(sandbox._container.container))


class TestEnds:
    def ended(self, sandbox: Sandbox) -> str:
        assert eventually(lambda: not sandbox.is_alive())
        status = sandbox.status()
        assert status.state == "stopped"
        with pytest.raises(SandboxLost) as caught:
            sandbox.execute("true")
        assert status.history[-1].reason in caught.value.message
        return status.history[-1].reason

    def test_memory_that_runs_out(self, start: Any) -> None:
        """The programs die of it, and the sandbox only when files fill its memory."""
        sandbox = start(memory="32m")
        hog = ["python3", "-c", "x = b'x' * (1 << 30)"]
        assert sandbox.execute(hog).exit_code in (1, 137)
        assert sandbox.execute("echo alive").stdout == "alive\n"
        with contextlib.suppress(SandboxLost):
            sandbox.execute("head -c 1000m /dev/zero > /run/rock-gym/fill", timeout=20)
            sandbox.execute("true")
        if not sandbox.is_alive():
            assert "memory" in self.ended(sandbox)

    @pytest.mark.parametrize(
        ("seen", "words"),
        [
            ({"oom": {}, "die": {}}, "out of memory"),
            ({"kill": {}, "die": {"Actor": {"Attributes": {"exitCode": "137"}}}}, "outside"),
            ({"die": {"Actor": {"Attributes": {"exitCode": "3"}}}}, "code 3"),
            ({"destroy": {}}, "removed"),
        ],
    )
    def test_the_engines_word_for_it(self, seen: dict[str, Any], words: str) -> None:
        """The first process is the last to die of hunger, which a test cannot wait for."""
        assert words in _explain(seen)

    def test_a_kill_from_outside(self, engine: Any, start: Any) -> None:
        sandbox = start()
        engine.api.kill(sandbox._container.container)
        assert "killed from outside" in self.ended(sandbox)

    def test_a_removal_from_outside(self, engine: Any, start: Any) -> None:
        sandbox = start()
        engine.api.remove_container(sandbox._container.container, force=True)
        assert "outside" in self.ended(sandbox)

    def test_twenty_containers_of_a_killed_owner(self) -> None:
        """None is left after five seconds."""
        script = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import rock_gym
def start(number):
    # Some talk beside the engine, where they may.
    beside = number % 2 == 0 and os.geteuid() == 0
    return rock_gym.Sandbox.start(backend="docker", run_dir=beside)
with ThreadPoolExecutor(4) as threads:
    held = list(threads.map(start, range(20)))
for sandbox in held: sandbox.create_session().run("sleep 1000 &")
print("1", flush=True)
sys.stdin.readline()
"""
        with Owner(script) as owner:
            owner.tells()
            assert len(containers_of(owner.process.pid)) == 20
            owner.kill()
            owner.process.wait(10)
            start = time.monotonic()
            assert eventually(lambda: not containers_of(owner.process.pid), 5)
            assert time.monotonic() - start < 5

    def test_what_never_started_is_swept(self, engine: Any) -> None:
        """By the next process that uses the engine, if its owner is dead."""
        dead = owner_label().replace(f'"pid": {os.getpid()}', '"pid": 4000000')
        config = {"Image": "python:3.11", "Cmd": ["true"]}
        for owner in (dead, owner_label(), "nonsense"):
            engine.api.create_container_from_config(
                {**config, "Labels": {"rock-gym.owner": owner, "rock-gym.test": "sweep"}}
            )
        backend = docker_backend.DockerBackend()
        left = backend.engine.list("rock-gym.test")
        backend.close()
        for container in left:
            engine.remove(container["Id"])
        assert sorted(item["Labels"]["rock-gym.owner"] for item in left) == sorted(
            (owner_label(), "nonsense")
        )


class TestFigures:
    def test_statistics_are_there_at_once(self, start: Any) -> None:
        sandbox = start(memory="256m", profile="strict")
        sandbox.execute(
            "head -c 20000000 /dev/zero > f; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
        )
        begin = time.monotonic()
        seen = sandbox._container.statistics()
        assert time.monotonic() - begin < 0.9
        assert dataclasses.is_dataclass(seen)
        assert seen.cpu_s > 0
        assert 20_000_000 <= seen.memory_bytes <= seen.memory_limit_bytes == 256 << 20
        assert seen.disk_bytes >= 20_000_000
        assert seen.processes >= 1
        sandbox.stop()
        with pytest.raises(rock_gym.errors.RockGymError):
            sandbox._container.statistics()

    def test_limits_of_strict_ones_are_told_too(self, start: Any) -> None:
        """Nothing inside sees the control groups, so they are looked at from outside."""
        sandbox = start(memory="64m", profile="strict")
        hog = ["python3", "-I", "-S", "-c", "bytearray(200 << 20)"]
        assert sandbox.execute("exit 3").cause is None
        assert sandbox.execute(hog).cause == "oom"
        assert sandbox.execute("exit 3").cause is None


class TestNetworks:
    def test_none_bridge_and_internal(self, engine: Any, start: Any) -> None:
        names = "cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '"
        assert start().execute(names).stdout.split() == ["lo"]
        assert "eth0" in start(network="bridge").execute(names).stdout
        one, two = start(network="internal"), start(network="internal")
        assert "eth0" in one.execute(names).stdout
        networks = engine.inspect(two._container.container)["NetworkSettings"]["Networks"]
        address = networks["rock-gym-internal"]["IPAddress"]
        two.execute("python3 -m http.server 8000 >/dev/null 2>&1 &")
        fetch = (
            "import urllib.request as u\n"
            f"print(u.urlopen('http://{address}:8000', timeout=5).status)"
        )
        assert eventually(lambda: one.execute(["python3", "-c", fetch]).stdout == "200\n")
        assert engine.api.inspect_network("rock-gym-internal")["Internal"] is True

    def test_published_ports_are_on_loopback(self, engine: Any, start: Any) -> None:
        sandbox = start(network="bridge", ports={8000: None})
        ports = engine.inspect(sandbox._container.container)["NetworkSettings"]["Ports"]
        assert [each["HostIp"] for each in ports["8000/tcp"]] == ["127.0.0.1"]
        with pytest.raises(SpecError, match="bridge"):
            Sandbox.start(backend="docker", ports={80: None})


class TestSpecs:
    @pytest.mark.parametrize(
        "options",
        [
            {"profile": "lax"},
            {"lifetime": "for ever"},
            {"pull": "sometimes"},
            {"network": "host"},
            {"ulimits": {"NOFILE; rm": 1}},
            {"ports": {0: None}, "network": "bridge"},
            {"no_such": 1},
            {"dockerfile": "FROM scratch", "image": "python:3.11"},
        ],
    )
    def test_nonsense(self, options: dict[str, Any]) -> None:
        with pytest.raises(SpecError):
            Sandbox.start(**{"backend": "docker", **options})

    def test_they_go_through_json(self) -> None:
        spec = SandboxSpec.of(
            "i",
            profile="strict",
            shm="8m",
            ulimits={"nofile": 9},
            ports={80: None},
            network="bridge",
            gpus=2,
        )
        assert SandboxSpec.from_json(spec.to_json()) == spec
        assert hash(spec)

    def test_the_embedded_backend_says_what_it_cannot(self) -> None:
        with pytest.raises(SpecError, match=r"shm=.*docker"):
            Sandbox.start(backend="bubblewrap", shm="8m")

    def test_a_missing_gem_image_names_the_command(self) -> None:
        with pytest.raises(ImageNotFound, match="rock-gym image build gem"):
            Sandbox.start("rock-gym/gem:0.0.0", backend="docker")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may signal what runs in containers")
class TestRunDirectories:
    def test_gem_steps_go_over_a_socket(self) -> None:
        spec = with_guest(SandboxSpec.of(run_dir=True), backend="docker")
        with SandboxPool.from_spec(spec, backend="docker") as pool:
            with rock_gym.make("game:GuessTheNumber-v0-easy", pool=pool) as env:
                env.reset(seed=1)
                assert env.unwrapped.sandbox.capabilities.sockets is True
                worker = env.unwrapped._worker
                # The pid is that of this machine, by the kernel's word.
                assert worker.pid in members(env.unwrapped.sandbox)
                assert env.step("\\boxed{1}")[1] is not None
            stuck = lease_worker(EnvConfig("game:GuessTheNumber-v0-easy"), pool)
            stuck.reset(1)
            os.kill(stuck.pid, signal.SIGSTOP)
            with pytest.raises(StepTimeout):
                stuck.step("\\boxed{1}", 0.2)
            stuck.close()

    def test_all_else_goes_over_one_too(self, start: Any) -> None:
        """Large things both ways at once, terminals, and what comes after a restart."""
        sandbox = start(run_dir=True)
        data = os.urandom(5_000_000)
        with sandbox.open_pty(["yes"]):
            sandbox.write_file("f", data)
            assert sandbox.read_file("f", encoding=None) == data
            assert len(sandbox.execute("cat f | base64", timeout=20).stdout) > 500_000
        sandbox.restart()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = sandbox.open(["sh", "-c", "echo hi >&3"], channel=theirs)
            assert process.wait(20) == 0
            process.close()
            assert ours.recv(10) == b"hi\n"
        assert sandbox.create_session().run("echo there").output == "there\n"

    def test_nothing_of_it_is_left(
        self, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither on the host nor, once the first process has come, inside."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        sandbox = start(run_dir=True)
        assert not list(tmp_path.iterdir())
        assert sandbox.execute("ls -A /run/rock-gym-host").stdout == ""
        assert sandbox.execute("touch /run/rock-gym-host/x").exit_code != 0

    def test_not_with_code_that_nobody_has_read(self) -> None:
        with pytest.raises(SpecError, match="run_dir"):
            Sandbox.start(backend="docker", run_dir=True, profile="strict")
