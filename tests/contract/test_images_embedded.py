"""Images of embedded sandboxes: what other backends do in their own way, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rock_gym import Sandbox
from rock_gym.errors import ImageError, ImageNotFound, SandboxClosed, SpecError
from rock_gym.images import Store
from rock_gym.images.archive import import_image
from rock_gym.images.export import export_image
from tests.contract import images
from tests.contract.test_images import output
from tests.images import archives as make

EMBEDDED = "bubblewrap"


@pytest.fixture(scope="module")
def base(data: Path) -> str:
    """The same as on the backend under test, where that is the embedded one."""
    try:
        Store().get(images.BASE)
    except ImageNotFound:
        images.make_base(EMBEDDED, images.BASE)
    return images.BASE


@pytest.fixture
def run(base: str) -> Iterator[Callable[..., Sandbox]]:
    with ExitStack() as stack:
        yield lambda image=base, **options: stack.enter_context(
            Sandbox.start(image, backend=EMBEDDED, **options)
        )


def test_an_unknown_image_names_all_ways(data: Path) -> None:
    with pytest.raises(ImageNotFound) as caught:
        Sandbox.start("python:3.11", backend=EMBEDDED)
    for way in ("image import", "image pull", "'host'", "directory", "docker"):
        assert way in str(caught.value)
    with pytest.raises(ImageNotFound, match="directory"):
        Sandbox.start("/no/such/place", backend=EMBEDDED)


@pytest.mark.parametrize("path", ["/", "/etc", "/root", "/home", "/proc", "/../"])
def test_the_system_is_no_image(path: str) -> None:
    with pytest.raises(SpecError, match="host"):
        Sandbox.start(path, backend=EMBEDDED)


def test_a_root_directory(run: Callable[..., Sandbox]) -> None:
    """Used as it is, and never written to; it cannot be committed, and the error says what can."""
    image = Store().get(images.BASE)
    root = Store().layer_path(image.layers[0])
    sandbox = run(root)
    output(sandbox, "echo x > /etc/x; rm /etc/issue")
    assert output(sandbox, "cat /etc/x") == "x"
    assert not os.path.exists(f"{root}/etc/x")
    assert os.path.exists(f"{root}/etc/issue")
    with pytest.raises(SpecError, match="image import"):
        sandbox.commit("x")


def test_the_disk_limit_holds(run: Callable[..., Sandbox]) -> None:
    """For files of the image's own directories; what is removed counts no more."""
    sandbox = run(disk="32m")
    filled = sandbox.execute("head -c 100m /dev/zero > /usr/big")
    assert filled.exit_code != 0
    assert int(output(sandbox, "stat -c %s /usr/big")) <= 32 << 20
    output(sandbox, "rm /usr/big && head -c 20m /dev/zero > /usr/big")


def test_host_cannot_be_committed(data: Path) -> None:
    with (
        Sandbox.start(backend=EMBEDDED) as sandbox,
        pytest.raises(SpecError, match="image import"),
    ):
        sandbox.commit("x")


def test_an_image_in_use_cannot_be_removed(run: Callable[..., Sandbox]) -> None:
    """Nor what it is based on; a sandbox that was stopped still uses it, as it can be restarted."""
    sandbox = run()
    with pytest.raises(ImageError, match="in use"):
        Store().remove(images.BASE)
    sandbox.stop()
    with pytest.raises(ImageError, match="in use"):
        Store().remove(images.BASE)
    sandbox.restart()
    assert "bookworm" in output(sandbox, "cat /etc/os-release")


def test_the_settings_of_an_image(run: Callable[..., Sandbox], tmp_path: Path) -> None:
    """Its variables and its work directory, which is made if it is not there."""
    tar = Path(images.base_tar())
    found = hashlib.sha256(tar.read_bytes()).hexdigest()
    config = json.dumps(
        {
            "architecture": make.ARCHITECTURE,
            "os": "linux",
            "config": {
                "Env": ["GREETING=hello", "PATH=/opt/x:/usr/bin:/bin"],
                "WorkingDir": "/a/b",
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{found}"]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": make.describe(config),
            "layers": [{"digest": f"sha256:{found}", "size": tar.stat().st_size}],
        }
    ).encode()
    index = json.dumps({"manifests": [make.describe(manifest)]}).encode()
    files = {f"blobs/sha256/{make.digest(one)}": one for one in (config, manifest)}
    layout = make.lay_out(tmp_path / "layout", {**files, "index.json": index, "oci-layout": b"{}"})
    os.symlink(tar, layout / "blobs/sha256" / found)
    image = import_image(layout, "settings")
    assert image.layers == Store().get(images.BASE).layers
    sandbox = run("settings")
    assert sandbox.workdir == "/a/b"
    assert output(sandbox, "pwd; echo $GREETING; echo $PATH") == (
        "/a/b\nhello\n/opt/x:/usr/bin:/bin"
    )
    assert output(run("settings", env={"GREETING": "bye"}), "echo $GREETING") == "bye"
    sandbox.delete()


PROBES = {
    "mount": "mount -t tmpfs none /mnt",
    "unshare": "unshare -r true",
    "chroot": "chroot / true",
    "device": "mknod /dev1 b 8 0",
    "core pattern": "echo x > /proc/sys/kernel/core_pattern",
    "remount": "mount -o remount,rw /proc/sys",
    "hostname": "hostname other",
    "write to /dev": "echo x > /dev/rock-gym/init",
    "namespaces": "python3 -c 'import os; os.setns(os.open(\"/proc/1/ns/mnt\", 0), 0)'",
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES.keys())
def test_root_inside_is_not_root(run: Callable[..., Sandbox], probe: str) -> None:
    assert run().execute(probe).exit_code != 0


def test_what_root_inside_may_do(run: Callable[..., Sandbox]) -> None:
    """The filter and the capabilities are those of the recipe, and no exec gives back more."""
    sandbox = run()
    wanted = {"CapEff": "fb", "CapPrm": "fb", "CapBnd": "fb", "CapInh": "0", "CapAmb": "0"}
    for line in output(sandbox, "grep Cap /proc/self/status").splitlines():
        kind, mask = line.split(":")
        assert int(mask, 16) == int(wanted[kind], 16), line
    status = output(sandbox, "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status").split()
    assert status == ["NoNewPrivs:", "1", "Seccomp:", "2"]
    assert output(sandbox, "tr -d '\\0' < /proc/1/environ").removeprefix("PWD=/") == ""


def test_root_inside_is_nobody_outside(run: Callable[..., Sandbox]) -> None:
    """Its files and processes belong to a user that nobody else is, or to the owner."""
    first, second = run(), run()
    owners = set()
    for sandbox in (first, second):
        pid = sandbox._container.pid  # type: ignore[attr-defined]
        owners.add(os.stat(f"/proc/{pid}").st_uid)
    assert 0 not in owners
    assert len(owners) == (2 if os.geteuid() == 0 else 1)


HOSTILE = """
set -e
mkdir /evil
ln -s /etc/shadow /evil/link
ln -s ../../../../../../etc /evil/up
cp /bin/sh /evil/setuid; chmod 6755 /evil/setuid
python3 -c "
import os, socket
socket.socket(socket.AF_UNIX).bind('/evil/socket')
open('/evil/\\\\n\\x01' + 'n' * 200, 'w').close()
os.symlink('x' * 4000, '/evil/long')
"
"""


def test_a_commit_of_hostile_files(run: Callable[..., Sandbox], data: Path) -> None:
    """They stay what they are, in a directory that nobody else can enter."""
    sandbox = run()
    sandbox.execute(HOSTILE, check=True)
    sandbox.commit("hostile")
    store = Store()
    evil = Path(store.layer_path(store.get("hostile").layers[-1]), "evil")
    assert os.readlink(evil / "link") == "/etc/shadow"
    assert os.readlink(evil / "up") == "../../../../../../etc"
    assert not (evil / "socket").exists()
    assert store.root.stat().st_mode & 0o077 == 0
    assert output(run("hostile"), "readlink /evil/link") == "/etc/shadow"


def test_a_commit_of_a_bottomless_tree(run: Callable[..., Sandbox]) -> None:
    """It is refused, nothing is left of it, and the sandbox goes on."""
    sandbox = run()
    code = "import os\nfor _ in range(2000):\n os.mkdir('d'); os.chdir('d')"
    sandbox.execute(["python3", "-c", code], check=True)
    with pytest.raises(ImageError):
        sandbox.commit("deep")
    assert os.listdir(Store().root / "drafts") == []
    assert output(sandbox, "echo on") == "on"


def test_a_commit_that_the_end_of_the_sandbox_interrupts(run: Callable[..., Sandbox]) -> None:
    sandbox = run()
    sandbox.stop()
    with pytest.raises(SandboxClosed, match="stopped"):
        sandbox.commit("late")
    with pytest.raises(ImageNotFound):
        Store().get("late")


def test_docker_load_takes_an_export(run: Callable[..., Sandbox], tmp_path: Path) -> None:
    """And runs what was committed, with its whiteouts."""
    required = "docker" in os.environ.get("ROCK_GYM_REQUIRE", "")
    program = shutil.which("docker")
    answers = program and subprocess.run([program, "info"], capture_output=True).returncode == 0
    if not answers and required and os.geteuid() == 0:
        pytest.fail("no Docker Engine answers, and docker is required")
    if not answers or program is None:
        pytest.skip("no Docker Engine answers")
    sandbox = run()
    output(
        sandbox, "echo committed > /x; rm /etc/issue; rm -r /usr/share/doc; mkdir /usr/share/doc"
    )
    name = f"rock-gym-test-export:{os.getpid()}"
    sandbox.commit(name)
    export_image(name, tmp_path / "out.tar")
    loaded = subprocess.run(
        [program, "load", "-i", str(tmp_path / "out.tar")], capture_output=True, text=True
    )
    assert loaded.returncode == 0, loaded.stderr
    try:
        command = "cat /x; ls /etc/issue; ls /usr/share/doc | wc -l"
        done = subprocess.run(
            [program, "run", "--rm", "--network", "none", name, "sh", "-c", command],
            capture_output=True,
            text=True,
        )
        assert done.stdout == "committed\n0\n", done.stderr
    finally:
        subprocess.run([program, "rmi", "--force", name], capture_output=True)
