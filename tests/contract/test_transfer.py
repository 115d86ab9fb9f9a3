"""Upload and download: everything arrives as it was, and nothing else is touched."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
import resource
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rock_gym.errors import FileError, RockGymError, SandboxClosed, SpecError
from tests.contract.support import within

NAMES = [
    "plain.txt",
    "with space",
    "line\nbreak",
    "quote'\"$HOME`id`",
    "-rf",
    ".hidden",
    "é😀",
    "é" * 127,
    "a" * 255,
    "...",
]


def make_tree(root: Path) -> Path:
    """Files of several modes and sizes, empty ones, folders in folders, links of all kinds."""
    (root / "sub" / "deep" / "deeper").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "sub" / "closed").mkdir()
    for name, size, mode in (
        ("file", 1000, 0o644),
        ("script", 10, 0o755),
        ("secret", 10, 0o600),
        ("nothing", 0, 0o444),
        ("sub/large", 3_000_001, 0o640),
        ("sub/closed/inner", 10, 0o644),
    ):
        (root / name).write_bytes(os.urandom(size))
        (root / name).chmod(mode)
        os.utime(root / name, ns=(10**18, 1_234_567_890_123_456_789))
    (root / "link").symlink_to("file")
    (root / "sub" / "up").symlink_to("../file")
    (root / "sub" / "folder").symlink_to("deep")
    (root / "dangling").symlink_to("not/there")
    (root / "sub" / "closed").chmod(0o555)
    os.utime(root / "sub" / "deep", ns=(10**18, 10**18))
    return root


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """All that should survive a copy, by path."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        info = path.lstat()
        kind = stat.S_IFMT(info.st_mode)
        content: object = None
        if stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(info.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        mode = None if stat.S_ISLNK(info.st_mode) else stat.S_IMODE(info.st_mode)
        found[str(path.relative_to(root))] = (kind, mode, info.st_mtime_ns, content)
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


def test_a_folder_there_and_back(sandbox: Any, tree: Path, tmp_path: Path) -> None:
    """Contents, modes, times and links are those of the original."""
    up = sandbox.upload(tree, "copies/tree")
    down = sandbox.download("copies/tree", tmp_path / "back" / "tree")
    assert described(tmp_path / "back" / "tree") == described(tree)
    assert (up.files, up.folders, up.links, up.skipped) == (6, 6, 4, ())
    assert up == down
    assert up.bytes == 1000 + 10 + 10 + 3_000_001 + 10


def test_what_arrives_inside(sandbox: Any, tree: Path) -> None:
    """It belongs to who runs commands, and is what commands see."""
    sandbox.upload(tree, "t")
    shown = sandbox.execute(
        "cd t; stat -c '%a %n' file script secret nothing sub/closed; readlink link sub/up "
        "sub/folder dangling; test -O file && test -O sub && echo ours; stat -c %Y file sub/deep; "
        "rm -r . 2>/dev/null; chmod -R u+w . && rm -r ../t && echo removed"
    ).stdout
    assert shown == (
        "644 file\n755 script\n600 secret\n444 nothing\n555 sub/closed\nfile\n../file\ndeep\n"
        "not/there\nours\n1234567890\n1000000000\nremoved\n"
    )


def test_one_file(sandbox: Any, tmp_path: Path) -> None:
    local = tmp_path / "f"
    local.write_bytes(os.urandom(5000))
    local.chmod(0o750)
    sandbox.upload(str(local), "made/on/the/way/g")
    assert sandbox.read_file("made/on/the/way/g", encoding=None) == local.read_bytes()
    assert sandbox.execute("stat -c %a made/on/the/way/g").stdout == "750\n"
    result = sandbox.download("made/on/the/way/g", tmp_path / "also" / "made" / "h")
    assert (result.files, result.folders, result.bytes) == (1, 0, 5000)
    assert filecmp.cmp(local, tmp_path / "also" / "made" / "h", shallow=False)
    assert stat.S_IMODE((tmp_path / "also" / "made" / "h").stat().st_mode) == 0o750


@pytest.mark.parametrize("name", NAMES)
def test_names(sandbox: Any, tmp_path: Path, name: str) -> None:
    """Any name that the system takes, in a folder and for the copy itself."""
    (tmp_path / "in" / name).mkdir(parents=True)
    (tmp_path / "in" / name / name).write_text("content")
    sandbox.upload(tmp_path / "in", "names")
    sandbox.upload(tmp_path / "in" / name / name, f"other/{name}")
    sandbox.download("names", tmp_path / "out")
    assert (tmp_path / "out" / name / name).read_text() == "content"
    sandbox.download(f"other/{name}", tmp_path / name)
    assert (tmp_path / name).read_text() == "content"


def test_names_that_are_not_text(sandbox: Any, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 \xff")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / odd).write_text("content")
    (tmp_path / "in" / "link").symlink_to(odd)
    sandbox.upload(tmp_path / "in", "t")
    sandbox.download("t", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted([odd, "link"])
    assert (tmp_path / "out" / "link").read_text() == "content"


def test_into_a_folder_that_is_there(sandbox: Any, tmp_path: Path) -> None:
    """Beside what it holds; files of the same name are replaced, and its own mode is kept."""
    (tmp_path / "in" / "d").mkdir(parents=True)
    (tmp_path / "in" / "f").write_text("new")
    (tmp_path / "in" / "d" / "g").write_text("new")
    (tmp_path / "in").chmod(0o700)
    sandbox.execute("mkdir -p t/d; chmod 755 t; echo old > t/f; echo old > t/d/other")
    sandbox.upload(tmp_path / "in", "t")
    assert sandbox.execute("cd t; cat f d/g d/other; stat -c %a .").stdout == "newnewold\n755\n"
    (tmp_path / "out" / "d").mkdir(parents=True)
    (tmp_path / "out" / "d" / "kept").write_text("old")
    (tmp_path / "out" / "f").write_text("old")
    sandbox.download("t", tmp_path / "out")
    assert (tmp_path / "out" / "f").read_text() == "new"
    assert (tmp_path / "out" / "d" / "kept").read_text() == "old"


def test_the_work_directory_as_a_whole(sandbox: Any, tree: Path, tmp_path: Path) -> None:
    sandbox.upload(tree, ".")
    sandbox.upload(tree / "file", "/tmp/there/file")
    assert sandbox.execute("cmp file /tmp/there/file").exit_code == 0
    sandbox.download(f"{sandbox.workdir}/sub", tmp_path / "sub", outward_links="keep")
    assert described(tmp_path / "sub") == described(tree / "sub")


def test_progress(sandbox: Any, tree: Path, tmp_path: Path) -> None:
    """From nothing to everything, never backwards."""
    for transfer in (
        lambda told: sandbox.upload(tree, "t", progress=told),
        lambda told: sandbox.download("t", tmp_path / "out", progress=told),
    ):
        calls: list[tuple[int, int]] = []
        result = transfer(lambda *call, calls=calls: calls.append(call))
        done = [call[0] for call in calls]
        assert done == sorted(done)
        assert len(calls) >= 5
        assert {call[1] for call in calls} == {result.bytes}
        assert (calls[0], calls[-1]) == ((0, result.bytes), (result.bytes, result.bytes))


def test_progress_that_raises_ends_the_copy(sandbox: Any, tree: Path, tmp_path: Path) -> None:
    """With what it raised; whole files or none, and no litter."""

    def stop(done: int, total: int) -> None:
        if done > 2_000_000:
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        sandbox.upload(tree, "t", progress=stop)
    assert sandbox.execute("find t -name '.rock*' -o -name large").stdout == ""
    sandbox.upload(tree, "u")
    with pytest.raises(OSError, match="no more"):
        sandbox.download("u", tmp_path / "out", progress=stop)
    assert [p.name for p in tmp_path.rglob("*") if p.name.startswith(".rock")] == []
    assert not (tmp_path / "out" / "sub" / "large").exists()
    assert sandbox.execute("echo fine").stdout == "fine\n"


@pytest.mark.timeout(180)
def test_a_gigabyte_in_bounded_memory(start: Any, tmp_path: Path) -> None:
    """Up and down, unchanged, with no more memory than for a small one."""
    sandbox = start(disk="1200m")
    block = os.urandom(1 << 20)
    with open(tmp_path / "big", "wb") as file:
        for number in range(1024):
            file.write(number.to_bytes(4, "big") + block[4:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    calls: list[int] = []
    sandbox.upload(tmp_path / "big", "big", progress=lambda done, total: calls.append(done))
    sandbox.download("big", tmp_path / "back")
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb < 64 * 1024
    assert len(calls) > 500
    assert filecmp.cmp(tmp_path / "big", tmp_path / "back", shallow=False)
    for name in ("big", "back"):
        os.unlink(tmp_path / name)


def test_many_small_files(sandbox: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(1500):
        (tmp_path / "in" / str(number)).write_text(str(number))
    before = len(os.listdir("/proc/self/fd"))
    assert sandbox.upload(tmp_path / "in", "t").files == 1500
    assert sandbox.download("t", tmp_path / "out").files == 1500
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert described(tmp_path / "out") == described(tmp_path / "in")


# What cannot be copied


@pytest.mark.parametrize(
    ("local", "reason"),
    [("missing", "ENOENT"), ("file/below", "ENOTDIR"), ("fifo", "EINVAL"), ("loop", "ELOOP")],
)
def test_a_local_path_that_cannot_be_read(
    sandbox: Any, tmp_path: Path, local: str, reason: str
) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    with within(5), pytest.raises(FileError) as caught:
        sandbox.upload(tmp_path / local, "t")
    assert (caught.value.path, caught.value.reason) == (str(tmp_path / local), reason)
    assert sandbox.execute("test -e t").exit_code == 1


@pytest.mark.parametrize(
    ("remote", "reason"),
    [("missing", "ENOENT"), ("file/below", "ENOTDIR"), ("fifo", "EINVAL"), ("/dev/zero", "EINVAL")],
)
def test_a_path_inside_that_cannot_be_read(
    sandbox: Any, tmp_path: Path, remote: str, reason: str
) -> None:
    sandbox.execute("echo x > file; mkfifo fifo")
    with within(5), pytest.raises(FileError) as caught:
        sandbox.download(remote, tmp_path / "out")
    assert (caught.value.path, caught.value.reason) == (remote, reason)
    assert not (tmp_path / "out").exists()


def test_what_is_unreadable_in_a_folder(sandbox: Any, tmp_path: Path) -> None:
    """The error names the very file."""
    sandbox.execute("mkdir -p t/d; echo x > t/d/secret; chmod 000 t/d/secret")
    if sandbox.execute("cat t/d/secret").exit_code == 0:
        pytest.skip("the sandbox's user may read everything")
    with pytest.raises(FileError) as caught:
        sandbox.download("t", tmp_path / "out")
    assert (caught.value.path, caught.value.reason) == ("t/d/secret", "EACCES")


@pytest.mark.parametrize("remote", ["/proc/t", "/sys/t", "/usr/t", "file/t", "folder"])
def test_where_nothing_can_be_placed(sandbox: Any, tmp_path: Path, remote: str) -> None:
    (tmp_path / "f").write_text("x")
    sandbox.execute("echo x > file; mkdir -p folder/inner")
    if remote == "/usr/t" and sandbox.execute("touch /usr/x").exit_code == 0:
        pytest.skip("the sandbox's user may write to /usr")
    with pytest.raises(FileError) as caught:
        sandbox.upload(tmp_path / "f", remote)
    assert caught.value.path == remote
    assert sandbox.execute("ls -A folder").stdout == "inner\n"


def test_a_folder_over_a_file(sandbox: Any, tree: Path, tmp_path: Path) -> None:
    sandbox.execute("echo x > taken")
    with pytest.raises(FileError):
        sandbox.upload(tree, "taken")
    assert sandbox.read_file("taken") == "x\n"
    (tmp_path / "taken").write_text("x")
    sandbox.execute("mkdir t")
    with pytest.raises(FileError):
        sandbox.download("t", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "x"


def test_a_full_disk(start: Any, tmp_path: Path) -> None:
    """What is whole by then stays; there is no half file, and the error says what it was."""
    sandbox = start(disk="8m")
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "in" / name).write_bytes(os.urandom(3 << 20))
    with pytest.raises(FileError) as caught:
        sandbox.upload(tmp_path / "in", "t")
    assert (caught.value.reason, caught.value.cause) == ("ENOSPC", "disk")
    assert sandbox.execute("ls -A t; wc -c < t/a").stdout == f"a\nb\n{3 << 20}\n"


def test_pipes_and_sockets_are_left_out(sandbox: Any, tmp_path: Path) -> None:
    """And named in the result."""
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "fifo")
    (tmp_path / "in" / "file").write_text("x")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "in" / "socket"))
        result = sandbox.upload(tmp_path / "in", "t")
    assert result.skipped == ("fifo", "socket")
    assert sandbox.execute("ls t").stdout == "file\n"
    sandbox.execute("mkfifo t/pipe")
    with within(5):
        result = sandbox.download("t", tmp_path / "out")
    assert (result.skipped, os.listdir(tmp_path / "out")) == (("pipe",), ["file"])


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_paths_that_make_no_sense(sandbox: Any, tmp_path: Path, path: str) -> None:
    (tmp_path / "f").write_text("x")
    for verb in (
        lambda: sandbox.upload(tmp_path / "f", path),
        lambda: sandbox.upload(path, "t"),
        lambda: sandbox.download("t", path),
        lambda: sandbox.download(path, tmp_path / "out"),
        lambda: sandbox.download(".", tmp_path / "out", outward_links="maybe"),
    ):
        with pytest.raises(SpecError):
            verb()


def test_after_stop(sandbox: Any, tree: Path, tmp_path: Path) -> None:
    sandbox.stop()
    with pytest.raises(SandboxClosed):
        sandbox.upload(tree, "t")
    with pytest.raises(SandboxClosed):
        sandbox.download("t", tmp_path / "out")


def test_stopping_meanwhile(sandbox: Any, tmp_path: Path) -> None:
    """The copy ends with a SandboxClosed, soon."""
    (tmp_path / "in").mkdir()
    for number in range(3000):
        (tmp_path / "in" / str(number)).write_text("x")
    started = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        copying = thread.submit(
            sandbox.upload, tmp_path / "in", "t", progress=lambda *_: started.set()
        )
        assert started.wait(10)
        sandbox.stop()
        with within(5), pytest.raises(SandboxClosed):
            copying.result()


# Hostile trees


def test_links_out_of_a_folder(sandbox: Any, tmp_path: Path) -> None:
    """Refused unless asked for: whoever reads the copy would follow them to files of the host."""
    targets = {
        "absolute": "/etc/passwd",
        "above": "../../x",
        "hidden": "inner/../../../x",
        "fooling": "here/../x",
    }
    for name, target in targets.items():
        sandbox.execute(f"rm -rf t; mkdir -p t/inner; ln -s . t/here; ln -s {target} t/{name}")
        with pytest.raises(FileError, match="outward_links") as caught:
            sandbox.download("t", tmp_path / name)
        assert (caught.value.path, caught.value.reason) == (f"t/{name}", "outward_link")
        assert not os.path.lexists(tmp_path / name / name)
        result = sandbox.download("t", tmp_path / "skipped", outward_links="skip")
        assert result.skipped == (name,)
        sandbox.download("t", tmp_path / "kept", outward_links="keep")
        assert os.readlink(tmp_path / "kept" / name) == target
    assert sorted(os.listdir(tmp_path / "skipped")) == ["here", "inner"]


def test_a_download_never_follows_a_link_that_was_here(sandbox: Any, tmp_path: Path) -> None:
    """Also not one that an earlier download has brought."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    sandbox.execute(f"mkdir t; ln -s {outside} t/d; ln -s {outside}/file t/f")
    sandbox.download("t", tmp_path / "out", outward_links="keep")
    sandbox.execute("rm t/d t/f; mkdir t/d; echo planted > t/d/file; echo planted > t/f")
    with pytest.raises(FileError) as caught:
        sandbox.download("t", tmp_path / "out")
    assert caught.value.reason in ("ENOTDIR", "ELOOP")
    sandbox.execute("rm -r t/d")
    sandbox.download("t", tmp_path / "out")
    assert not (tmp_path / "out" / "f").is_symlink()
    assert (tmp_path / "out" / "f").read_text() == "planted\n"
    assert (outside / "file").read_text() == "untouched"
    assert os.listdir(outside) == ["file"]


def test_a_link_in_the_place_of_the_copy_itself(sandbox: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    sandbox.execute("mkdir t; echo planted > t/file")
    (tmp_path / "folder").symlink_to(outside)
    with pytest.raises(FileError):
        sandbox.download("t", tmp_path / "folder")
    (tmp_path / "f").symlink_to(outside / "file")
    sandbox.download("t/file", tmp_path / "f")
    assert (tmp_path / "f").read_text() == "planted\n"
    assert (outside / "file").read_text() == "untouched"


def test_an_upload_never_follows_a_link_inside(sandbox: Any, tmp_path: Path) -> None:
    """Nor writes through it, wherever in the sandbox that would be."""
    (tmp_path / "in" / "d").mkdir(parents=True)
    (tmp_path / "in" / "d" / "file").write_text("new")
    (tmp_path / "in" / "f").write_text("new")
    sandbox.execute("mkdir t outside; echo untouched > outside/file; ln -s ../outside t/d")
    with pytest.raises(FileError) as caught:
        sandbox.upload(tmp_path / "in", "t")
    assert caught.value.path == "t/d"
    sandbox.execute("rm t/d; ln -s ../outside/file t/f")
    sandbox.upload(tmp_path / "in", "t")
    assert sandbox.execute("cat t/f; test -L t/f; echo $?").stdout == "new1\n"
    assert sandbox.execute("cat outside/file; ls outside").stdout == "untouched\nfile\n"


def test_an_upload_reads_nothing_outside_of_its_folder(sandbox: Any, tmp_path: Path) -> None:
    """Links go as links: a file of the host that one leads to stays here."""
    (tmp_path / "secret").write_text("of the host")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "folder").symlink_to(tmp_path)
    sandbox.upload(tmp_path / "in", "t")
    assert sandbox.execute("readlink t/link").stdout == f"{tmp_path}/secret\n"
    assert sandbox.execute("cat t/link t/folder/secret").stdout == ""


def test_a_tree_that_changes_while_it_is_downloaded(sandbox: Any, tmp_path: Path) -> None:
    """Folders turn into links and back; nothing outside is read or written."""
    secret = tmp_path / "host"
    secret.mkdir()
    (secret / "f").write_text("of the host")
    sandbox.execute("mkdir -p t/d; echo inside > t/d/f; echo inside > t/g")
    session = sandbox.create_session("racer")
    session.run(
        f"(while :; do mv t/d t/e; ln -s {secret} t/d; rm t/d; mv t/e t/d; done) >/dev/null 2>&1 &"
    )
    for number in range(60):
        out = tmp_path / f"out{number}"
        try:
            sandbox.download("t", out, outward_links="skip")
        except FileError as error:
            assert error.reason in ("ENOENT", "ELOOP", "ENOTDIR", "EINVAL")
        for path in out.rglob("*"):
            assert path.is_symlink() or path.is_dir() or path.read_text() == "inside\n"
    assert (secret / "f").read_text() == "of the host"
    assert os.listdir(secret) == ["f"]


def test_a_file_that_grows_for_ever(sandbox: Any, tmp_path: Path) -> None:
    """Its size at the beginning is what is copied."""
    sandbox.execute("mkdir t; echo start > t/log")
    session = sandbox.create_session("writer")
    session.run("(while :; do head -c 100000 /dev/zero >> t/log; truncate -s 50000 t/log; done) &")
    for number in range(10):
        with within(20):
            sandbox.download("t", tmp_path / str(number))


def test_folders_without_end(sandbox: Any, tmp_path: Path) -> None:
    """Deeper than anything sane is a typed error, not a crash or a heap of descriptors."""
    sandbox.execute(
        ["python3", "-I", "-S", "-c",
         "import os\nos.mkdir('t')\nos.chdir('t')\n"
         "for n in range(1000):\n    os.mkdir('d')\n    os.chdir('d')"],
        check=True,
    )  # fmt: skip
    before = len(os.listdir("/proc/self/fd"))
    with within(20), pytest.raises(FileError) as caught:
        sandbox.download("t", tmp_path / "out")
    assert caught.value.reason == "ENAMETOOLONG"
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_set_user_id_bits_are_dropped(sandbox: Any, tmp_path: Path) -> None:
    sandbox.execute("mkdir t; cp /bin/true t/f; chmod 4755 t/f; chmod 2775 t")
    sandbox.download("t", tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out" / "f").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o775


def test_what_kills_its_servant(sandbox: Any, tree: Path) -> None:
    """A process inside that kills all others fails the copy with a typed error, and soon."""
    sandbox.upload(tree, "t")
    session = sandbox.create_session("killer")
    session.run("trap '' TERM; (while :; do kill -9 -1; done) 2>/dev/null &")
    with within(40):
        for number in range(5):
            with contextlib.suppress(RockGymError):
                sandbox.upload(tree, f"u{number}")


def test_threads_at_once(sandbox: Any, tree: Path, tmp_path: Path) -> None:
    def there_and_back(number: int) -> None:
        sandbox.upload(tree, f"t{number}")
        sandbox.download(f"t{number}", tmp_path / f"out{number}")
        assert described(tmp_path / f"out{number}") == described(tree)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(there_and_back, range(16)))
