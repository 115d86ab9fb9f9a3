"""The contract, run again by an ordinary user that is made for it and removed afterwards.

The interpreter, its packages and this checkout may lie below directories that such a user cannot
enter, root's home above all. The user's processes therefore run in a mount namespace in which
these directories hold nothing but what is needed. Nothing on the machine itself is opened up.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.support import command_line, eventually

ROOT = Path(__file__).parents[2]
CONTRACT = sorted((ROOT / "tests" / "contract").glob("test_*.py"))
# What share a process each, as it takes seconds to start one and to import an image. The last are
# all others.
TOPICS = ("images", "pool", "sessions", "lifecycle", "")
PREFIX = "rg-test-"
BASE_TAR = "ROCK_GYM_TEST_BASE_TAR"
ALL_OF_A_TAR = ("test_hostile_images.py",)
TOOLS = ("useradd", "userdel", "unshare", "setpriv", "mount")

# Arguments: the user, then pairs "closed directory=needed path below it", then -- and the command.
OPEN_UP = """
set -eu
user=$1; stage=$2; shift 2
mount -t tmpfs -o mode=755 none "$stage"
pairs=""
while [ "$1" != -- ]; do
    needed=${1#*=}
    mkdir -p "$stage/needed$needed"
    mount --rbind "$needed" "$stage/needed$needed"
    pairs="$pairs $1"; shift
done
shift
for pair in $pairs; do
    closed=${pair%%=*}
    [ -e "$stage/done$closed" ] || mount -t tmpfs -o mode=755 none "$closed"
    mkdir -p "$stage/done$closed"
done
for pair in $pairs; do
    needed=${pair#*=}
    mkdir -p "$needed"
    mount --rbind "$stage/needed$needed" "$needed"
done
exec setpriv --reuid "$user" --regid "$user" --clear-groups --inh-caps=-all --bounding-set=-all "$@"
"""


def require(condition: object, reason: str) -> None:
    """Skip, or fail where the embedded backend must be present."""
    if not condition and "bubblewrap" in os.environ.get("ROCK_GYM_REQUIRE", ""):
        pytest.fail(reason)
    if not condition:
        pytest.skip(reason)


def closed_directory_above(path: Path) -> Path | None:
    """The highest directory on the way that others cannot enter."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            return parent
    return None


def needed_paths() -> list[Path]:
    paths = {Path(sys.prefix), Path(sys.base_prefix), ROOT, Path(sysconfig.get_path("purelib"))}
    if os.environ.get(BASE_TAR):
        paths.add(Path(os.environ[BASE_TAR]).parent)
    paths |= {path.resolve() for path in paths}
    return sorted(path for path in paths if not any(p in path.parents for p in paths))


def processes_of(name: str) -> dict[int, str]:
    """What a user's processes are, by their ids."""
    uid = pwd.getpwnam(name).pw_uid
    found = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == uid:
                found[int(entry)] = command_line(int(entry))
    return found


def remove(name: str) -> None:
    """Remove a user and whatever still runs as that user."""
    for pid in processes_of(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    subprocess.run(["userdel", "--force", "--remove", name], check=True, capture_output=True)


def about(topic: str) -> list[Path]:
    """The modules of the contract that no topic before this one has."""
    earlier = TOPICS[: TOPICS.index(topic)]
    return [
        path
        for path in CONTRACT
        if topic in path.stem and not any(each in path.stem for each in earlier)
    ]


@dataclass(frozen=True)
class User:
    """An ordinary user and a way to be it."""

    name: str
    home: str
    stage: Path

    def run(self, *command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        pairs = []
        for path in needed_paths():
            closed = closed_directory_above(path)
            if closed is not None:
                assert closed not in (Path("/"), Path("/tmp")), f"others cannot enter {closed}"
                pairs.append(f"{closed}={path}")
        require(not any(re.search(r"\s", pair) for pair in pairs), "a path with a space in it")
        unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", OPEN_UP, "sh"]
        environment = {
            "HOME": self.home,
            "USER": self.name,
            "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            # What grows would show as root already; here a few tell whether anything does.
            "ROCK_GYM_CYCLES": "200",
            # An engine is root's, as who may use it may become root.
            "ROCK_GYM_REQUIRE": "bubblewrap" if "ROCK_GYM_REQUIRE" in os.environ else "",
            **{name: os.environ[name] for name in (BASE_TAR,) if name in os.environ},
        }
        return subprocess.run(
            [*unshare, self.name, str(self.stage), *pairs, "--", *command],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A user who was not there before and is gone afterwards."""
    require(os.geteuid() == 0, "only root can make a user; run as one, the suite is the test")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    require(not missing, f"missing: {', '.join(missing)}")
    for entry in pwd.getpwall():
        owner = entry.pw_name.removeprefix(PREFIX)
        if owner != entry.pw_name and not Path("/proc", owner).exists():
            remove(entry.pw_name)  # of a run that was killed
    name = f"{PREFIX}{os.getpid()}"
    subprocess.run(
        ["useradd", "--create-home", "--shell", "/bin/bash", name], check=True, capture_output=True
    )
    try:
        made = User(name, pwd.getpwnam(name).pw_dir, tmp_path_factory.mktemp("stage"))
        probe = made.run("true")
        require(probe.returncode == 0, f"no mount namespace can be made: {probe.stderr}")
        yield made
        assert eventually(lambda: not processes_of(name)), processes_of(name)
    finally:
        remove(name)


def test_the_user_is_ordinary(user: User) -> None:
    """No right is left that root's process had, and root's files stay closed."""
    shown = user.run("sh", "-c", "id -u; grep CapEff /proc/self/status; cat /etc/shadow").stdout
    assert shown.split() == [str(pwd.getpwnam(user.name).pw_uid), "CapEff:", "0000000000000000"]


def test_the_interpreter_is_the_same(user: User) -> None:
    shown = user.run(sys.executable, "-c", "import sys, rock_gym; print(sys.version)")
    assert shown.stdout.strip() == sys.version, shown.stderr


@pytest.mark.timeout(900)
@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic or "others")
def test_the_contract_holds_for_the_user(user: User, topic: str) -> None:
    paths = about(topic)
    done = user.run(
        *(sys.executable, "-m", "pytest", *map(str, paths), "--rootdir", str(ROOT), "-q", "-rp"),
        *("-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"),
        *("--basetemp", f"{user.home}/tmp"),
    )
    told = [line for line in done.stdout.splitlines() if not line.startswith(("PASSED", "SKIPPED"))]
    assert done.returncode == 0, "\n".join(told)[-8000:] + done.stderr[-2000:]
    for path in paths:
        if path.name in ALL_OF_A_TAR and not os.environ.get(BASE_TAR):
            continue  # CI has one
        assert re.search(rf"^PASSED .*{path.name}::", done.stdout, re.MULTILINE), path


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", ["single_env", "coding_sandbox"])
def test_the_examples_run_for_the_user(user: User, name: str) -> None:
    done = user.run(sys.executable, str(ROOT / "examples" / f"{name}.py"), timeout=180)
    assert done.returncode == 0, done.stderr
