"""What a backend with images must do: a root of one's own to change, and commits of it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from rock_gym import Sandbox
from rock_gym.cli import main
from rock_gym.errors import ImageNotFound, SpecError
from tests.contract import images
from tests.contract.support import kill_owners_that_start


@pytest.fixture
def run(backend: str, base: str, name: str) -> Iterator[Callable[..., Sandbox]]:
    """Start a sandbox of an image, by default the base."""
    with ExitStack() as stack:
        yield lambda image=base, **options: stack.enter_context(
            Sandbox.start(image, backend=backend, **options)
        )


@pytest.fixture
def name(backend: str, base: str) -> Iterator[str]:
    """The name of an image that a test commits; the image goes after all sandboxes of it."""
    name = f"rock-gym-test-commit-{os.getpid()}"
    yield name
    with contextlib.suppress(ImageNotFound):
        images.remove(backend, name)


def output(sandbox: Sandbox, command: str) -> str:
    return sandbox.execute(command, check=True).stdout.strip()


def test_an_unknown_image(backend: str, data: Path) -> None:
    """The error says what would supply it; nothing else is started in its place."""
    with pytest.raises(ImageNotFound, match="no-such-image"):
        Sandbox.start("no-such-image", backend=backend)


def test_the_root_is_the_image_s(run: Callable[..., Sandbox]) -> None:
    sandbox = run()
    assert "bookworm" in output(sandbox, "cat /etc/os-release")
    assert output(sandbox, "id -u; id -g") == "0\n0"
    assert output(sandbox, "python -c 'print(6 * 7)'") == "42"
    assert output(sandbox, "pwd") == sandbox.workdir


def test_everything_can_be_changed(run: Callable[..., Sandbox]) -> None:
    """Files of the image too: written, removed, moved, and made anew."""
    changes = """
    set -e
    echo more >> /etc/debian_version; echo new > /etc/new; rm /etc/issue
    rm -r /usr/share/doc; mkdir /usr/share/doc; echo x > /usr/share/doc/x
    mv /var/log /var/moved; ln -s moved /var/log; chmod 700 /srv; mkdir -p /a/b/c
    """
    look = "cat /etc/debian_version /etc/new; ls /etc/issue; ls /usr/share/doc | wc -l; ls /"
    sandbox, other = run(), run()
    before = other.execute(look)
    sandbox.execute(changes, check=True)
    assert output(sandbox, "cat /usr/share/doc/*; readlink /var/log; stat -c %a /srv") == (
        "x\nmoved\n700"
    )
    assert sandbox.execute("ls /etc/issue").exit_code != 0
    for unchanged in (other, run()):
        after = unchanged.execute(look)
        assert (after.stdout, after.exit_code) == (before.stdout, before.exit_code)


def test_owners_can_be_changed(run: Callable[..., Sandbox]) -> None:
    """Installing packages asks for it, whether or not there is more than one user to give to."""
    sandbox = run()
    output(sandbox, "touch /x && chown 0:42 /x && chown www-data /x && chmod 4755 /x")
    assert output(sandbox, "stat -c %a /x") == "4755"


def test_files_and_sessions(run: Callable[..., Sandbox]) -> None:
    sandbox = run()
    sandbox.write_file("/new/place/file", "text")
    sandbox.write_file("/etc/issue", "changed")
    assert sandbox.read_file("/etc/issue") == "changed"
    session = sandbox.create_session()
    session.run("cd /new/place; X=1")
    assert session.run("cat file; echo $X").output == "text1\n"


def test_localhost_is_known(run: Callable[..., Sandbox]) -> None:
    code = "import socket; s = socket.create_server(('localhost', 0)); "
    code += "socket.create_connection(s.getsockname()); print('ok')"
    assert output(run(), f'python -c "{code}"') == "ok"


def test_a_virtual_environment_and_a_local_wheel(run: Callable[..., Sandbox]) -> None:
    sandbox = run()
    sandbox.write_file("demo-1.0-py3-none-any.whl", images.wheel())
    sandbox.execute("python3 -m venv v", check=True)
    install = "install --no-index --quiet demo-1.0-py3-none-any.whl"
    sandbox.execute(f"v/bin/pip {install}", check=True)
    assert output(sandbox, "v/bin/demo") == "demo runs"
    # Without one as well, into the image's own Python, which has no pip itself.
    sandbox.write_file("pip.zip", images.pip())
    sandbox.execute(f"python3 pip.zip/pip {install}", check=True)
    assert output(sandbox, "cd / && demo") == "demo runs"
    assert run().execute("python3 -c 'import demo'").exit_code != 0


PACKAGE = """
set -e
mkdir -p p/DEBIAN p/opt/greeting
printf 'Package: greeting\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@example.org>\\n' \
    > p/DEBIAN/control
printf 'Description: greets\\n' >> p/DEBIAN/control
printf '#!/bin/sh\\nset -e\\nuseradd --system greeter\\nchown greeter /opt/greeting/hello\\n' \
    > p/DEBIAN/postinst
chmod 755 p/DEBIAN/postinst
echo hello > p/opt/greeting/hello
dpkg-deb --build p greeting.deb
dpkg -i greeting.deb
"""


def test_a_local_package(run: Callable[..., Sandbox]) -> None:
    """Its script adds a user and gives a file away."""
    sandbox = run()
    sandbox.execute(PACKAGE, check=True)
    assert output(sandbox, "cat /opt/greeting/hello; grep -c greeter /etc/passwd") == "hello\n1"
    assert output(sandbox, "dpkg-query -W -f '${Status}' greeting") == "install ok installed"
    sandbox.execute("dpkg -r greeting", check=True)
    assert sandbox.execute("ls /opt/greeting").exit_code != 0
    assert run().execute("dpkg-query -W greeting").exit_code != 0


def test_what_it_has_written_survives_a_restart(run: Callable[..., Sandbox]) -> None:
    sandbox = run()
    output(sandbox, "echo kept > /etc/kept; rm /etc/issue")
    sandbox.restart()
    assert output(sandbox, "cat /etc/kept; ls /etc/issue 2>&1 | grep -c 'No such'") == "kept\n1"


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_an_owner_killed_while_it_starts_them(backend: str, base: str, warm: bool) -> None:
    """Nothing is left, of what is made for each and of what is made once for an image."""
    kill_owners_that_start(backend, base, warm=warm)


# Commit


def test_a_commit(run: Callable[..., Sandbox], name: str) -> None:
    """All that was changed is in it, and the sandbox goes on with its processes."""
    sandbox = run()
    session = sandbox.create_session()
    session.run("X=still; sleep 100 & echo $! > /pid")
    output(
        sandbox,
        "set -e; cd /; rm /etc/issue; rm -r /usr/share/doc; mkdir -m 711 /usr/share/doc; mkdir /d;"
        "echo one > /d/f; ln /d/f /d/hard; ln -s /etc/passwd /d/soft; mkfifo -m 620 /d/p;"
        "chmod 4751 /d/f; touch -d @1000000000 /d/f; truncate -s 5G /d/sparse; chmod 0 /srv",
    )
    made = sandbox.commit(name)
    assert made.name == name
    assert made.size_bytes > 1 << 20
    assert session.run("kill -0 $(cat /pid) && echo $X").output == "still\n"
    output(sandbox, "echo two > /d/f; echo later > /d/later")
    again = run(name)
    look = "stat -c '%n %F %a' /d /d/f /d/soft /d/p /usr/share/doc /srv; stat -c %h /d/hard"
    assert output(again, look).splitlines() == [
        "/d directory 755",
        "/d/f regular file 4751",
        "/d/soft symbolic link 777",
        "/d/p fifo 620",
        "/usr/share/doc directory 711",
        "/srv directory 0",
        "2",
    ]
    assert output(again, "cat /d/f; readlink /d/soft; stat -c %Y /d/f; ls -A /usr/share/doc") == (
        "one\n/etc/passwd\n1000000000"
    )
    assert int(output(again, "stat -c %s /d/sparse")) == 5 << 30
    assert output(again, "ls /etc/issue /d/later 2>&1 | grep -c 'No such'") == "2"
    assert output(run(), "ls -d /d 2>&1 | grep -c 'No such'") == "1"


def test_a_chain_of_commits(run: Callable[..., Sandbox], backend: str) -> None:
    """Each is based on the one before; what one removes, later ones do not have."""
    length = 30
    names = [f"rock-gym-test-chain-{os.getpid()}-{n}" for n in range(length)]
    image = images.BASE
    try:
        for n, name in enumerate(names):
            with Sandbox.start(image, backend=backend) as sandbox:
                output(sandbox, f"echo {n} >> /log; echo {n} > /n{n}; rm -f /n{n - 1}")
                sandbox.commit(name)
            image = name
        last = run(image)
        assert output(last, "cat /log").split() == [str(n) for n in range(length)]
        assert output(last, "echo /n[0-9]*") == f"/n{length - 1}"
        output(last, "echo more >> /log")
        last.stop()
        last.delete()
    finally:
        for name in reversed(names):
            images.remove(backend, name)


def test_a_commit_takes_the_place_of_another(run: Callable[..., Sandbox], name: str) -> None:
    """Also of the one that the sandbox itself runs, which does not mind."""
    first = run()
    output(first, "echo 1 > /x")
    first.commit(name)
    second = run(name)
    output(second, "echo 2 > /x")
    second.commit(name)
    assert output(run(name), "cat /x") == "2"
    assert output(second, "cat /x /etc/debian_version | head -1") == "2"


def test_a_commit_of_what_keeps_changing(run: Callable[..., Sandbox], name: str) -> None:
    """Files come and go, and turn into links and folders, while they are copied."""
    sandbox = run()
    session = sandbox.create_session()
    session.run(
        "(while :; do mkdir -p /t/a/b; echo x > /t/a/b/f; rm -rf /t/a; ln -s /etc /t/a; rm /t/a;"
        " mkfifo /t/a; rm /t/a; echo y > /t/a; rm /t/a; done) > /dev/null 2>&1 &"
    )
    output(sandbox, "for i in $(seq 300); do echo $i > /many$i; done")
    for _ in range(5):
        sandbox.commit(name)
    assert output(run(name), "ls -d /many* | wc -l") == "300"


def test_commits_at_once(run: Callable[..., Sandbox], name: str) -> None:
    """Of one sandbox, under one name."""
    sandbox = run()
    output(sandbox, "echo x > /x")
    failures: list[BaseException] = []

    def commit() -> None:
        try:
            sandbox.commit(name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=commit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert output(run(name), "cat /x") == "x"


@pytest.mark.parametrize("bad", ["", "a b", "/abs", "a//b", "x" * 300])
def test_a_commit_under_no_name(run: Callable[..., Sandbox], bad: str) -> None:
    with pytest.raises(SpecError):
        run().commit(bad)


def test_the_command_line_builds_one_from_another(
    backend: str, base: str, name: str, tmp_path: Path
) -> None:
    """What is copied and what commands change is kept; where one fails, nothing is."""
    (tmp_path / "tool.txt").write_text("a tool")
    words = ["image", "build", "from", base, name, "--backend", backend]
    copy = ["--copy", f"{tmp_path / 'tool.txt'}:/opt/tool.txt"]
    failed = CliRunner().invoke(main, [*words, *copy, "--run", "no-such-program"])
    assert (failed.exit_code, "'no-such-program' ended with code 127" in failed.stderr) == (1, True)
    bell = CliRunner().invoke(main, [*words, "--run", "printf 'ring\\a'; exit 3"])
    assert bell.stderr.splitlines()[-2:] == [
        "ring\N{REPLACEMENT CHARACTER}",
        "Error: \"printf 'ring\\\\a'; exit 3\" ended with code 3",
    ]
    with pytest.raises(ImageNotFound):
        Sandbox.start(name, backend=backend)
    built = CliRunner().invoke(main, [*words, *copy, "--run", "cat /opt/tool.txt > /etc/made"])
    assert built.exit_code == 0, built.output
    shown = CliRunner().invoke(
        main, ["exec", "--backend", backend, "--image", name, "cat", "/etc/made"]
    )
    assert (shown.exit_code, shown.stdout) == (0, "a tool")
