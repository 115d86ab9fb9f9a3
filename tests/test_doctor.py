"""``rock-gym doctor``: it says what holds, and what is missing is really missing.

What it says of limits, to ordinary users too: ``tests/contract/test_doctor.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rock_gym import Sandbox
from rock_gym.cli import main
from tests.conftest import required, why_unusable
from tests.contract.support import run_owner

REPOSITORY = str(Path(__file__).parents[1])
NOWHERE = "unix:///nowhere/docker.sock"
DOCTOR = (sys.executable, "-m", "rock_gym", "doctor", "--json")


def as_root(*tools: str) -> None:
    """What only root can take away from a process needs root."""
    lacking = [tool for tool in tools if shutil.which(tool) is None]
    reason = f"needs {lacking}" if lacking else "needs root" if os.geteuid() != 0 else None
    if reason is not None and required():
        pytest.fail(reason, pytrace=False)
    if reason is not None:
        pytest.skip(reason)


def without_namespaces(command: Sequence[str]) -> list[str]:
    """A command as run on a machine whose users may have no namespaces."""
    as_root("unshare")
    setting = "echo 0 >/proc/sys/user/max_user_namespaces"  # of a user namespace's own
    shell = ["sh", "-c", f'{setting} && exec "$@"', "sh"]
    return ["unshare", "--user", "--map-user=1000", "--keep-caps", *shell, *command]


def told(command: Sequence[str], docker: str = NOWHERE) -> tuple[int, Any, dict[str, Any]]:
    """The exit code, the default backend, and what was found, by part and name."""
    done = subprocess.run(
        command,
        env={**os.environ, "DOCKER_HOST": docker, "PYTHONPATH": REPOSITORY},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stderr == ""
    return done.returncode, *read(done.stdout)


def read(text: str) -> tuple[Any, dict[str, Any]]:
    report = json.loads(text)
    found = {f"{check['part']} {check['name']}": check for check in report["checks"]}
    return report["default_backend"], found


def test_it_is_content_where_sandboxes_work(backend: str) -> None:
    """Whatever can be tried has been: walls and limits, from inside."""
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    default, found = read(done.stdout)
    works = [name for name in ("bubblewrap", "docker") if why_unusable(name) is None]
    assert default == works[0]
    part = "embedded" if backend == "bubblewrap" else "docker"
    for name in ("sandbox", "rights", "system calls", "/proc and /sys", "network"):
        assert found[f"{part} {name}"]["state"] == "ok", found[f"{part} {name}"]
    for limit in ("memory", "processes", "disk"):
        assert found[f"{part} limit of {limit}"]["state"] in ("ok", "degraded")
    assert found["gem interpreter"]["state"] == "ok"
    if backend == "bubblewrap":
        assert found["embedded namespaces"]["state"] == "ok"
        assert found["embedded images"]["state"] == "ok"


def test_lines_for_people(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that is not as it could be is followed by the command that mends it."""
    if backend != "bubblewrap":
        pytest.skip("one of them without Docker is enough")
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    number = next(n for n, line in enumerate(lines) if line.startswith("docker engine"))
    assert "missing" in lines[number]
    assert NOWHERE in lines[number]
    assert lines[number + 1].strip().startswith("fix: install and start it")
    assert lines[-1] == "sandboxes start with: bubblewrap"


def test_without_bubblewrap() -> None:
    as_root("unshare", "bwrap")
    hide = f"mount --bind /dev/null {shutil.which('bwrap')}"
    command = ["unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh", *DOCTOR]
    code, default, found = told(command)
    assert (code, default) == (1, None)
    assert found["embedded bubblewrap"]["state"] == "missing"
    assert found["embedded bubblewrap"]["fix"].endswith("bubblewrap")
    assert found["embedded namespaces"]["state"] == "ok"


def test_where_users_may_have_no_namespaces() -> None:
    code, default, found = told(without_namespaces(DOCTOR))
    assert (code, default) == (1, None)
    assert found["embedded sandbox"]["state"] == "missing"
    assert "user.max_user_namespaces is 0" in found["embedded namespaces"]["detail"]
    assert found["embedded namespaces"]["fix"] == "sudo sysctl -w user.max_user_namespaces=65536"


def test_where_users_may_have_no_namespaces_exec_sends_them_here_once() -> None:
    words = [sys.executable, "-m", "rock_gym", "exec", "--backend", "bubblewrap", "true"]
    done = subprocess.run(
        without_namespaces(words), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 125
    assert done.stderr.count("rock-gym doctor") == 1, done.stderr


def test_where_no_namespaces_are_to_be_had_docker_is_what_auto_means(backend: str) -> None:
    if backend != "docker":
        pytest.skip("it is about where embedded sandboxes do not work")
    script = (
        "import json, rock_gym\n"
        "with rock_gym.Sandbox.start() as one: print(json.dumps(one.backend), flush=True)\n"
    )
    command = without_namespaces([sys.executable, "-c", script])
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ('"docker"\n', "")


def test_in_a_container(backend: str) -> None:
    """Where a filter of system calls is in the way, as in a sandbox of ours."""
    if backend != "bubblewrap":
        pytest.skip("the interpreter is not in the other's images")
    with Sandbox.start(backend=backend, read_only=(REPOSITORY,)) as sandbox:
        done = sandbox.execute(list(DOCTOR), env={"PYTHONPATH": REPOSITORY}, timeout=60)
    assert (done.exit_code, done.stderr) == (1, "")
    _, found = read(done.stdout)
    assert found["embedded sandbox"]["state"] == "missing"
    assert "filter of system calls" in found["embedded namespaces"]["detail"]
    assert "--security-opt seccomp=unconfined" in found["embedded namespaces"]["fix"]


def test_few_descriptors() -> None:
    script = (
        "import json, resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 5000))\n"
        "from rock_gym.doctor.machine import examine_machine\n"
        "check = examine_machine()[-1]\n"
        "print(json.dumps([check.name, check.state, check.fix]), flush=True)\n"
    )
    assert run_owner(script) == ["open files", "degraded", "ulimit -n 5000"]
