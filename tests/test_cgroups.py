"""Control groups: where they are made, what is written there, and that none is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rock_gym.backends.launcher import cgroups
from tests.contract.support import Owner, eventually, parents, wait_gone

HYBRID = """\
8:pids:/
4:memory:/sessions/mine
2:cpu,cpuacct:/
1:name=systemd:/
0::/
"""
HYBRID_MOUNTS = """\
31 23 0:28 / {root} rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / {root}/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
36 31 0:33 / {root}/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / {root}/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / {root}/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / {root}/unified rw,relatime - cgroup2 cgroup2 rw
"""
UNIFIED = "0::/user.slice/app.slice/app-mine.scope\n"
UNIFIED_MOUNTS = "28 23 0:25 / {root} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
IN_A_CONTAINER = "5:memory:/docker/0123/inner\n"
CONTAINER_MOUNTS = "36 31 0:33 /docker/0123 {root}/memory rw - cgroup cgroup rw,memory\n"


def make(path: Path, **files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


@pytest.fixture
def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree as version 2 has it, in files: our group has processes, its parent has controllers."""
    files = ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cgroup.procs")
    real = os.mkdir

    def mkdir(path: str, *rest: int) -> None:
        real(path, *rest)
        if not path.endswith("-probe"):
            for name in files:
                Path(path, name).write_text("")

    def rmdir(path: str) -> None:
        for file in Path(path).iterdir():
            if file.is_file():
                file.unlink()
        real_rmdir(path)

    real_rmdir = os.rmdir
    parent = make(
        tmp_path / "user.slice" / "app.slice",
        cgroup__procs="",
        cgroup__subtree_control="memory pids cpu",
    )
    make(parent / "app-mine.scope", cgroup__procs="1", cgroup__subtree_control="")
    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(os, "rmdir", rmdir)
    return tmp_path


def test_a_hierarchy_per_controller(tmp_path: Path) -> None:
    """Each controller below the group that we are in there."""
    for name in ("cpu,cpuacct", "memory/sessions/mine", "pids", "systemd", "unified"):
        make(tmp_path / name)
    found = cgroups.Cgroups(HYBRID, HYBRID_MOUNTS.format(root=tmp_path))
    assert found.version == 1
    assert found.places == {
        "memory": f"{tmp_path}/memory/sessions/mine",
        "pids": f"{tmp_path}/pids",
        "cpu": f"{tmp_path}/cpu,cpuacct",
        "cpuacct": f"{tmp_path}/cpu,cpuacct",
    }


def test_a_container_sees_its_own_part_of_the_tree(tmp_path: Path) -> None:
    make(tmp_path / "memory" / "inner")
    found = cgroups.Cgroups(IN_A_CONTAINER, CONTAINER_MOUNTS.format(root=tmp_path))
    assert found.places == {"memory": f"{tmp_path}/memory/inner"}


def test_a_group_outside_of_what_is_mounted(tmp_path: Path) -> None:
    make(tmp_path / "memory")
    found = cgroups.Cgroups("5:memory:/elsewhere\n", CONTAINER_MOUNTS.format(root=tmp_path))
    assert found.places == {}


def test_where_nothing_can_be_made(tmp_path: Path) -> None:
    """No hierarchy, or none that is there: then no controller is claimed."""
    assert cgroups.Cgroups("", "").places == {}
    assert cgroups.Cgroups(HYBRID, HYBRID_MOUNTS.format(root=tmp_path / "missing")).places == {}
    assert cgroups.Cgroups(UNIFIED, UNIFIED_MOUNTS.format(root=tmp_path / "missing")).places == {}


def test_one_hierarchy_for_all(unified: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside our own group, which cannot have children with limits while we are in it."""

    def refuse(path: str, text: str) -> None:
        if path.endswith("app-mine.scope/cgroup.subtree_control"):
            raise OSError(16, "busy")
        Path(path).write_text(text)

    monkeypatch.setattr(cgroups, "_write", refuse)
    found = cgroups.Cgroups(UNIFIED, UNIFIED_MOUNTS.format(root=unified))
    place = f"{unified}/user.slice/app.slice"
    assert (found.version, found.places) == (2, dict.fromkeys(("memory", "pids", "cpu"), place))
    group = found.create({"memory": 64 << 20, "pids": 43, "cpus": 0.5})
    (directory,) = group.directories()
    assert os.path.dirname(directory) == place
    written = {file.name: file.read_text() for file in Path(directory).iterdir()}
    assert written == {
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "pids.max": "43",
        "cpu.max": "50000 100000",
        "cgroup.procs": "",
    }
    assert group.doors() == [f"{directory}/cgroup.procs"]
    found.discard(group)
    assert not os.path.exists(directory)


def test_controllers_are_switched_on_where_that_is_possible(unified: Path) -> None:
    """As in a container, or for the root of the tree."""
    own = unified / "user.slice" / "app.slice" / "app-mine.scope"
    asked: list[str] = []

    class Control:
        """What the file does that one of a plain directory does not: it adds up."""

        def write(self, path: str, text: str) -> None:
            file = Path(path)
            if file.name == "cgroup.subtree_control":
                asked.append(text)
                text = f"{file.read_text()} {text.lstrip('+')}"
            file.write_text(text)

    original = cgroups._write
    cgroups._write = Control().write
    try:
        found = cgroups.Cgroups(UNIFIED, UNIFIED_MOUNTS.format(root=unified))
    finally:
        cgroups._write = original
    assert asked == ["+memory", "+pids", "+cpu"]
    assert set(found.places.values()) == {str(own)}


def test_a_limit_that_cannot_be_set_is_an_error(unified: Path) -> None:
    """And leaves no group: nothing starts with less than was asked for."""
    found = cgroups.Cgroups(UNIFIED, UNIFIED_MOUNTS.format(root=unified))
    before = sorted(unified.rglob("*"))
    with pytest.raises(KeyError):
        cgroups.Group({}, 2).limit({"memory": 1})
    real = cgroups._write

    def refuse(path: str, text: str) -> None:
        if path.endswith("memory.max"):
            raise OSError(22, "no")
        real(path, text)

    cgroups._write = refuse
    try:
        with pytest.raises(OSError, match="no"):
            found.create({"memory": 64 << 20})
    finally:
        cgroups._write = real
    assert sorted(unified.rglob("*")) == before


@pytest.mark.parametrize(("cpus", "quota"), [(0.5, 50_000), (2, 200_000), (0.001, 1000)])
def test_cpus_as_a_quota(cpus: float, quota: int) -> None:
    assert cgroups._quota(cpus) == quota


# For real


@pytest.fixture
def here() -> Any:
    """The groups of this machine, if any can be made."""
    found = cgroups.Cgroups.here()
    if not {"memory", "pids"} <= found.places.keys():
        pytest.skip("no control groups can be made here")
    yield found
    found.close()


def ours(found: Any) -> list[Path]:
    """Every group of ours that there is, anybody's."""
    places = {Path(place) for place in found.places.values()}
    return [path for place in places for path in place.glob("rock-gym-*")]


def test_what_a_dead_launcher_left_is_swept(here: Any) -> None:
    """What a living one uses is not."""
    process = os.posix_spawn("/bin/true", ["true"], {})
    started = cgroups.start_time(process)
    os.waitpid(process, 0)
    place = here.places["memory"]
    dead = f"{place}/rock-gym-{process}-{started}-0"
    reused = f"{place}/rock-gym-{os.getpid()}-1-0"
    living = f"{place}/rock-gym-{os.getpid()}-{cgroups.start_time(os.getpid())}-99"
    foreign = f"{place}/rock-gymnast"
    for path in (dead, reused, living, foreign):
        os.mkdir(path)
    try:
        cgroups.Cgroups.here().close()
        assert [os.path.exists(path) for path in (dead, reused, living, foreign)] == [
            False,
            False,
            True,
            True,
        ]
    finally:
        os.rmdir(living)
        os.rmdir(foreign)


def test_a_process_joins_and_the_group_goes(here: Any) -> None:
    group = here.create({"memory": 64 << 20, "pids": 10})
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        cgroups.join(group.doors())
        os.write(write, Path("/proc/self/cgroup").read_bytes())
        os._exit(0)
    os.close(write)
    text = os.read(read, 8192).decode()
    os.close(read)
    os.waitpid(child, 0)
    assert text.count(os.path.basename(group.paths["memory"])) == len(group.directories())
    assert Path(group.paths["pids"], "pids.max").read_text() == "10\n"
    here.discard(group)
    assert not any(os.path.exists(path) for path in group.directories())


SCRIPT = """
import json, sys, rock_gym
sandboxes = [
    rock_gym.Sandbox.start(backend="bubblewrap", memory="64m", cpus=1, pids=50) for _ in range(3)
]
sandboxes[0].stop()
sandboxes[1].create_session().run("setsid sleep 1000 &")
print(json.dumps("started"), flush=True)
sys.stdin.readline()
"""


def launcher_of(owner: Owner) -> int:
    (launcher,) = [pid for pid, parent in parents().items() if parent == owner.process.pid]
    return launcher


def groups_of(launcher: int, found: Any) -> list[Path]:
    """Those of one owner: others, who run at the same time, have groups that come and go."""
    return [path for path in ours(found) if path.name.startswith(f"rock-gym-{launcher}-")]


@pytest.mark.parametrize("end", ["owner killed", "owner ends"])
def test_no_group_outlives_its_owner(here: Any, end: str) -> None:
    with Owner(SCRIPT, env={"PYTHONPATH": os.getcwd()}) as owner:
        assert owner.tells() == "started"
        launcher = launcher_of(owner)
        assert len(groups_of(launcher, here)) >= 6
        if end == "owner killed":
            owner.kill()
        else:
            owner.say("go")
        owner.process.wait(20)
        assert eventually(lambda: not groups_of(launcher, here)), groups_of(launcher, here)


def test_a_killed_launcher_leaves_them_to_the_next(here: Any) -> None:
    with Owner(SCRIPT, env={"PYTHONPATH": os.getcwd()}) as owner:
        owner.tells()
        below = owner.below()
        launcher = launcher_of(owner)
        os.kill(launcher, signal.SIGKILL)
        assert wait_gone(below) == set()
    assert groups_of(launcher, here)

    def swept() -> bool:
        cgroups.Cgroups.here().close()
        return not groups_of(launcher, here)

    assert eventually(swept)


def test_groups_cost_nothing_unless_limits_are_asked_for(here: Any) -> None:
    script = SCRIPT.replace(', memory="64m", cpus=1, pids=50', "")
    with Owner(script, env={"PYTHONPATH": os.getcwd()}) as owner:
        owner.tells()
        assert not groups_of(launcher_of(owner), here)
