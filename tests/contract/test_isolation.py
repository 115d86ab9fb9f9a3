"""What code inside must not reach. Each probe tries the forbidden thing itself."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rock_gym.errors import CommandTimeout
from tests.contract.support import (
    Owner,
    eventually,
    members,
    namespace_members,
    run_owner,
    within,
)

NAMESPACES = ("pid", "mnt", "net", "user", "ipc", "uts")

# Runs a system call and says "ok" or the name of the error.
SYSCALL = """
import ctypes, errno, os, platform, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    result = libc.syscall(*[a if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments])
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
"""
X86 = os.uname().machine == "x86_64"


# What code that nobody has read is run with. What the laxer profile of containers leaves open is
# tested in tests/docker.
HARDEST: dict[str, dict[str, Any]] = {"docker": {"profile": "strict"}}


@pytest.fixture
def start(start: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """Start sandboxes that are as closed as the backend under test can make them."""
    return lambda **options: start(**{**HARDEST.get(backend, {}), **options})


def namespaces(sandbox: Any) -> tuple[str, ...]:
    """The kinds of namespaces that must be a sandbox's own."""
    # Only an engine that is set up for it gives containers a user namespace. There, no right is
    # left, and each sandbox is another user.
    return NAMESPACES if sandbox.backend != "docker" else tuple(set(NAMESPACES) - {"user"})


@pytest.fixture
def python(sandbox: Any) -> Callable[[str], str]:
    """Run Python code inside; returns what it prints."""

    def run(code: str) -> str:
        result = sandbox.execute(["python3", "-I", "-S", "-c", code], timeout=30)
        assert result.exit_code == 0, result.stderr
        return result.stdout.strip()

    return run


@pytest.fixture(params=["execute", "session"])
def shell(request: pytest.FixtureRequest, sandbox: Any) -> Callable[[str], str]:
    """Run a shell command inside in each of the ways there are."""
    if request.param == "execute":
        return lambda command: sandbox.execute(command).stdout
    session = sandbox.create_session()
    return lambda command: session.run(command).output


# Namespaces and rights


def test_every_namespace_is_its_own(sandbox: Any, shell: Callable[[str], str]) -> None:
    for name in namespaces(sandbox):
        inside = shell(f"readlink /proc/self/ns/{name}").strip()
        assert inside.startswith(f"{name}:[")
        assert inside != os.readlink(f"/proc/self/ns/{name}")


def test_two_sandboxes_share_no_namespace(start: Any) -> None:
    one, two = start(), start()
    for name in namespaces(one):
        command = f"readlink /proc/self/ns/{name}"
        assert one.execute(command).stdout != two.execute(command).stdout


def test_all_commands_of_a_sandbox_share_them(sandbox: Any) -> None:
    session = sandbox.create_session()
    for name in NAMESPACES:
        command = f"readlink /proc/self/ns/{name}"
        assert sandbox.execute(command).stdout == session.run(command).output


def test_no_right_is_left(shell: Callable[[str], str]) -> None:
    """No capability, none to be had by a set-user-id program, and a system call filter."""
    status = dict(
        line.split(":\t", 1)
        for line in shell("cat /proc/self/status").splitlines()
        if ":\t" in line
    )
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    own = status["Gid"].split()[:1]
    assert own != ["0"]
    assert status["Groups"].split() in ([], ["65534"], ["1000"], own)


def test_nobody_inside_is_root_of_the_host(sandbox: Any) -> None:
    """Seen from outside, every process has an ordinary user's id."""
    sandbox.create_session().run("sleep 100 &")
    # A process that has just joined, and not yet given up its rights, runs nothing of the inside.
    namespace = sandbox.execute("readlink /proc/self/ns/pid").stdout.strip()
    assert namespace_members(namespace)
    assert eventually(lambda: not any(map(mighty, namespace_members(namespace))))


def mighty(pid: int) -> bool:
    """Whether a process has an id or a capability of the host's root."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    fields = {line.partition(":")[0]: line.split()[1:] for line in lines}
    return "0" in fields["Uid"] + fields["Gid"] or int(fields["CapEff"][0], 16) != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has only one id to give")
def test_two_sandboxes_are_two_users(start: Any) -> None:
    """So that neither can signal, trace or exhaust the other, whatever else fails."""
    owners = []
    for sandbox in (start(), start()):
        sandbox.create_session()
        owners.append({os.stat(f"/proc/{pid}").st_uid for pid in members(sandbox)} - {0})
    assert owners[0]
    assert owners[0].isdisjoint(owners[1])


# What is visible


def test_no_secret_of_the_environment_is_visible(backend: str) -> None:
    """Neither to commands, nor in the environment of any process inside, the first included."""
    shown = run_owner(
        f"""
import json, rock_gym
with rock_gym.Sandbox.start(backend={backend!r}) as sandbox:
    look = "env; set; export -p; cat /proc/[0-9]*/environ 2>&1; cat /proc/[0-9]*/cmdline"
    print(json.dumps([sandbox.execute(look).stdout, sandbox.create_session().run(look).output,
                      sandbox.execute("tr '\\\\0' '\\\\n' < /proc/1/environ 2>/dev/null").stdout]),
          flush=True)
""",
        env={"API_KEY": "planted-secret", "planted-secret": "API_KEY"},
    )
    assert "PATH" in shown[0]
    assert not [text for text in shown if "planted-secret" in text or "API_KEY" in text]
    assert not re.search(r"(KEY|SECRET|TOKEN|PASSWORD)", shown[2])


def test_no_descriptor_is_inherited(backend: str) -> None:
    """Not even one that its owner left inheritable."""
    script = f"""
import json, os, rock_gym
with open("/etc/passwd") as file:
    os.set_inheritable(file.fileno(), True)
    os.dup2(file.fileno(), 77)
    with rock_gym.Sandbox.start(backend={backend!r}) as sandbox:
        look = "for fd in /proc/self/fd/*; do echo ${{fd##*/}}; done; ls -l /proc/[0-9]*/fd 2>&1"
        print(json.dumps([sandbox.execute("ls /proc/self/fd").stdout.split(),
                          sandbox.create_session().run("ls /proc/self/fd").output.split(),
                          sandbox.execute(look).stdout]), flush=True)
"""
    executed, in_session, everywhere = run_owner(script)
    # The last one is the listed directory itself.
    assert set(executed) <= {"0", "1", "2", "3"}
    # In a session also the stream for end markers, which can be written, and not read.
    assert set(in_session) <= {"0", "1", "2", "3", "9"}
    assert "passwd" not in everywhere


def test_processes_of_the_host_are_invisible(sandbox: Any) -> None:
    pids = sandbox.execute("ls /proc | grep -c '^[0-9]'").stdout
    assert int(pids) < 10
    names = sandbox.execute("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert "pytest" not in names


def test_the_host_of_the_name(sandbox: Any) -> None:
    assert sandbox.execute("uname -n").stdout.strip() != socket.gethostname()


def test_homes_are_closed(sandbox: Any) -> None:
    """Of a home directory, only the way to the interpreter is visible."""
    needed = [Path(p).resolve() for p in (sys.prefix, sys.base_prefix)] + [Path(sys.prefix)]

    def leads_to_interpreter(path: Path) -> bool:
        return any(path == n or path in n.parents or n in path.parents for n in needed)

    homes = {Path.home(), Path("/root"), *Path("/home").iterdir()}
    for home in homes:
        listing = sandbox.execute(["find", str(home), "-maxdepth", "3"]).stdout.splitlines()
        for line in listing[1:]:
            if not line.startswith("/home/user"):
                assert leads_to_interpreter(Path(line)), line


def test_temporary_files_of_the_host_are_invisible(sandbox: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    assert sandbox.execute(f"cat {tmp_path}/secret").exit_code != 0
    assert not sandbox.execute(["ls", str(tmp_path)]).stdout


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/sudoers",
        "/etc/ssh",
        "/var/lib/dpkg/status",
        "/var/log",
        "/boot",
        "/proc/kcore",
        "/proc/1/root/etc/shadow",
        "/proc/1/cwd/../etc/shadow",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/sda",
        "/dev/fuse",
        "/dev/net/tun",
        "/sys/kernel",
        "/sys/fs/cgroup",
        "/run/docker.sock",
        "/var/run/docker.sock",
    ],
)
def test_what_is_not_there(sandbox: Any, path: str) -> None:
    """Nothing of the system's that no program needs."""
    if sandbox.backend == "docker" and path.startswith("/var/l"):
        pytest.skip("an image brings its own")
    result = sandbox.execute(f"head -c 1 {path} >/dev/null || ls {path}/* ")
    assert result.exit_code != 0, result.stdout


def test_no_socket_of_the_host_is_visible(sandbox: Any) -> None:
    """A read-only bind would not stop a connection to one."""
    result = sandbox.execute("find / -path /proc -prune -o -type s -print 2>/dev/null")
    assert result.stdout == ""
    listing = "ls -A /run /var/run 2>/dev/null | grep -vE 'rock-gym|^lock$'"
    assert sandbox.execute(listing).stdout.split() in (
        [],
        ["/run:", "/var/run:"],
        ["/run:"],
    )


@pytest.mark.parametrize("directory", ["/", "/usr", "/usr/bin", "/etc", "/dev", "/bin", "/lib"])
def test_the_system_cannot_be_written(sandbox: Any, directory: str) -> None:
    assert sandbox.execute(f"touch {directory}/planted || mkdir {directory}/p").exit_code != 0


def test_the_interpreter_cannot_be_written(python: Callable[[str], str]) -> None:
    """What one sandbox plants there would run in all others."""
    shown = python(
        "import os, sys, sysconfig\n"
        "for d in {sys.prefix, sys.base_prefix, sysconfig.get_path('purelib'), "
        "os.path.dirname(os.__file__)}:\n"
        "    print(os.access(d, os.W_OK))\n"
        "    try: open(d + '/planted.pth', 'w'); print('written', d)\n"
        "    except OSError as e: print(e.errno)"
    )
    assert "True" not in shown
    assert "written" not in shown


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/panic",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/fs/file-max",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sysrq-trigger",
        "/proc/1/oom_score_adj",
        "/proc/irq/default_smp_affinity",
        "/proc/bus/pci/devices",
    ],
)
def test_the_kernels_settings_cannot_be_written(
    sandbox: Any, python: Callable[[str], str], path: str
) -> None:
    """Not even opened for writing; nothing is written, in case they could."""
    answer = python(
        f"import os\ntry: os.close(os.open({path!r}, os.O_WRONLY)); print('open')\n"
        "except OSError as e: print(e.strerror)"
    )
    if path.startswith("/proc/1/"):
        return  # the sandbox's own first process: its own business
    assert answer != "open"


# The network


def test_only_loopback_is_there(sandbox: Any) -> None:
    lines = sandbox.execute("cat /proc/net/dev").stdout.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
    assert sandbox.execute("cat /proc/net/route").stdout.count("\n") <= 1


@pytest.fixture
def listeners() -> Iterator[tuple[int, str]]:
    """Servers of the host: one on its loopback, one on an abstract address."""
    name = f"rock-gym-test-{os.getpid()}"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        abstract.bind(f"\0{name}")
        abstract.listen()
        yield tcp.getsockname()[1], name


def test_the_hosts_servers_are_out_of_reach(
    python: Callable[[str], str], listeners: tuple[int, str]
) -> None:
    """Neither by its loopback nor by an abstract address."""
    port, name = listeners
    shown = python(
        "import socket\n"
        f"for family, address in ((2, ('127.0.0.1', {port})), (1, '\\0{name}')):\n"
        "    s = socket.socket(family); s.settimeout(2)\n"
        "    try: s.connect(address); print('connected')\n"
        "    except OSError: print('refused')\n"
        "for address in ('192.0.2.1', '169.254.169.254', '10.0.0.1'):\n"
        "    s = socket.socket(); s.settimeout(2)\n"
        "    try: s.connect((address, 80)); print('connected')\n"
        "    except OSError: print('refused')\n"
    )
    assert shown.split() == ["refused"] * 5


def test_loopback_inside_works(python: Callable[[str], str]) -> None:
    assert (
        python(
            "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
            "client = socket.create_connection(server.getsockname())\n"
            "peer, _ = server.accept(); client.sendall(b'hi'); print(peer.recv(9).decode())"
        )
        == "hi"
    )


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("AF_VSOCK", "SOCK_STREAM"),
        ("AF_NETLINK", "SOCK_RAW"),
        ("AF_PACKET", "SOCK_RAW"),
        ("AF_ALG", "SOCK_SEQPACKET"),
        ("AF_BLUETOOTH", "SOCK_STREAM"),
        ("AF_CAN", "SOCK_RAW"),
        ("AF_TIPC", "SOCK_STREAM"),
        ("AF_INET", "SOCK_RAW"),
        ("AF_INET6", "SOCK_RAW"),
    ],
)
def test_sockets_to_the_kernel_and_the_hypervisor(
    python: Callable[[str], str], family: str, kind: str
) -> None:
    number = int(getattr(socket, family, {"AF_BLUETOOTH": 31}.get(family, 0)))
    shown = python(
        f"import socket\ntry: socket.socket({number}, socket.{kind}, 0); print('open')\n"
        "except OSError as e: print('refused')"
    )
    assert shown == "refused"


# System calls

DENIED_X86 = {
    "unshare user": "call(272, 0x10000000)",
    "unshare mount": "call(272, 0x20000)",
    "unshare net": "call(272, 0x40000000)",
    "clone user": "call(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "clone3": "call(435, (0x10000000).to_bytes(8, 'little') + bytes(56), 64)",
    "setns": "call(308, os.open('/proc/self/ns/net', os.O_RDONLY), 0)",
    "mount": "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)",
    "umount": "call(166, b'/tmp', 2)",
    "pivot_root": "call(155, b'/', b'/')",
    "chroot": "call(161, b'/tmp')",
    "fsopen": "call(430, b'tmpfs', 0)",
    "open_tree": "call(428, -100, b'/tmp', 1)",
    "mount_setattr": "call(442, -100, b'/', 0, bytes(32), 32)",
    "keyctl": "call(250, 0, -3, 1)",
    "add_key": "call(248, b'user', b'x', b'y', 1, -3)",
    "request_key": "call(249, b'user', b'x', 0, -3)",
    "bpf": "call(321, 0, bytes(72), 72)",
    "perf_event_open": "call(298, (1).to_bytes(4,'little') + (112).to_bytes(4,'little') "
    "+ bytes(104), 0, -1, -1, 0)",
    "io_uring_setup": "call(425, 4, bytes(120))",
    "userfaultfd": "call(323, 0)",
    "open_by_handle_at": "call(304, -100, bytes(136), 0)",
    "init_module": "call(175, b'x', 1, b'')",
    "kexec_load": "call(246, 0, 0, 0, 0)",
    "reboot": "call(169, 0xfee1dead, 672274793, 0, 0)",
    "swapon": "call(167, b'/tmp/x', 0)",
    "syslog": "call(103, 3, bytes(64), 64)",
    "settimeofday": "call(164, bytes(16), 0)",
    "sethostname": "call(170, b'x', 1)",
    "acct": "call(163, b'/tmp/x')",
    "iopl": "call(172, 3)",
    "fanotify_init": "call(300, 0, 0)",
    "TIOCSTI": "call(16, 0, 0x5412, b'x')",
    "x32 unshare": "call(0x40000000 | 272, 0x10000000)",
    "x32 mount": "call(0x40000000 | 165, b'none', b'/tmp', b'tmpfs', 0, 0)",
}


@pytest.mark.skipif(not X86, reason="the numbers are those of x86_64")
@pytest.mark.parametrize("name", DENIED_X86)
def test_calls_that_are_denied(python: Callable[[str], str], name: str) -> None:
    """By the filter, or for want of any right."""
    probe = DENIED_X86[name]
    # A clone that succeeds returns twice; the child must not go on printing.
    code = SYSCALL + f"pid = os.getpid()\nanswer = {probe}\nif os.getpid() == pid: print(answer)"
    answer = python(code)
    allowed = {"EPERM", "ENOSYS", "EACCES"}
    if name == "TIOCSTI":
        allowed |= {"ENOTTY"}
    assert answer in allowed


@pytest.mark.skipif(not X86, reason="the numbers are those of x86_64")
@pytest.mark.parametrize("arch", ["int80"])
def test_the_old_way_into_the_kernel_is_closed(sandbox: Any, arch: str) -> None:
    """32-bit calls have other numbers, which a filter by number would let through."""
    code = (
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        # mov eax, 310 (unshare); mov ebx, CLONE_NEWUSER; int 0x80; ret
        "page.write(bytes.fromhex('53b836010000bb00000010cd805bc3'))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())"
    )
    result = sandbox.execute(["python3", "-I", "-S", "-c", code], timeout=20)
    assert result.exit_code != 0 or int(result.stdout) < 0


def test_what_programs_need_is_allowed(python: Callable[[str], str]) -> None:
    """Threads, processes, pipes, sockets of the usual families, shared memory, locks."""
    assert (
        python(
            "import fcntl, mmap, multiprocessing, os, socket, subprocess, threading\n"
            "t = threading.Thread(target=print, args=('thread',), kwargs={'flush': True})\n"
            "t.start(); t.join()\n"
            "subprocess.run(['echo', 'process'], check=True)\n"
            "socket.socketpair(); socket.socket(socket.AF_INET6)\n"
            "multiprocessing.Lock()\n"
            "with multiprocessing.get_context('fork').Pool(2) as p: print(p.map(abs, [-1, -2]))\n"
            "fcntl.flock(open('/tmp/lock', 'w'), fcntl.LOCK_EX)\n"
            "os.mkfifo('/tmp/fifo'); os.nice(1)\n"
        )
        == "thread\nprocess\n[1, 2]"
    )


def test_no_process_outside_can_be_signalled(python: Callable[[str], str]) -> None:
    """Their numbers mean nothing inside."""
    pids = [os.getpid(), os.getppid()]
    shown = python(
        "import os\n"
        f"for pid in {[pid for pid in pids if pid > 100]}:\n"
        "    try: os.kill(pid, 0); print('reached')\n"
        "    except OSError as e: print(e.errno)"
    )
    assert "reached" not in shown


# Limits


@pytest.mark.timeout(120)
def test_every_writable_place_is_bounded(start: Any) -> None:
    """A full disk is the sandbox's own problem, and it still answers."""
    sandbox = start(disk="16m")
    if sandbox.capabilities.disk == "none":
        pytest.skip("this backend says that it holds no disk limit")
    places = sandbox.execute(
        'for d in / /dev /dev/shm /tmp /var/tmp /run /run/* /home /home/* "$HOME" /work .; do '
        "[ -d $d ] && touch $d/.w 2>/dev/null && { rm $d/.w; cd $d && pwd -P; cd - >/dev/null; }; "
        "done | sort -u"
    ).stdout.split()
    assert sandbox.workdir in places
    for place in places:
        result = sandbox.execute(f"head -c 200m /dev/zero > {place}/fill; stat -c %s {place}/fill")
        assert "No space left" in result.stderr, place
        limit = 64 << 20 if place == "/dev/shm" else 16 << 20
        assert int(result.stdout) <= limit, place
        assert sandbox.execute(f"echo alive; rm {place}/fill").stdout == "alive\n"


def test_a_full_disk_leaves_the_sandbox_working(start: Any) -> None:
    sandbox = start(disk="4m")
    session = sandbox.create_session()
    sandbox.execute("head -c 100m /dev/zero > fill; head -c 100m /dev/zero > /tmp/fill")
    assert sandbox.execute("echo execute").stdout == "execute\n"
    assert session.run("echo session").output == "session\n"
    assert sandbox.create_session("new").run("cat <<E\nheredoc\nE").exit_code in (0, 1)
    assert sandbox.read_file("/etc/os-release")
    sandbox.execute("rm fill")
    sandbox.write_file("small", "x")
    assert sandbox.read_file("small") == "x"


def test_many_empty_files_are_bounded(start: Any) -> None:
    """Inodes are kernel memory; a size limit alone would not count them."""
    sandbox = start(disk="4m")
    if sandbox.capabilities.disk != "tmpfs":
        pytest.skip("inodes are not this backend's to bound")
    code = (
        "import os\nn = 0\ntry:\n"
        "    for n in range(400_000): os.close(os.open(f'/tmp/{n}', os.O_CREAT))\n"
        "except OSError as e: print(n, e.strerror)\nelse: print(n, 'no limit')"
    )
    assert "No space left" in sandbox.execute(["python3", "-I", "-S", "-c", code]).stdout


def test_the_number_of_processes_is_bounded(start: Any) -> None:
    """Forks beyond pids= fail, and the next command works."""
    sandbox = start(pids=64)
    if sandbox.capabilities.pids == "none":
        pytest.skip("this backend says that it holds no limit on processes")
    code = (
        "import os, time\nn = 0\n"
        "while n < 500:\n"
        "    try: pid = os.fork()\n"
        "    except OSError: break\n"
        "    if pid == 0: time.sleep(100); os._exit(0)\n"
        "    n += 1\n"
        "print(n, flush=True); os._exit(0)"
    )
    forked = int(sandbox.execute(["python3", "-I", "-S", "-c", code]).stdout)
    assert 32 <= forked <= 64
    assert len(members_from_outside(sandbox)) <= 70


def members_from_outside(sandbox: Any) -> set[int]:
    """The processes of a sandbox in which no other may fit."""
    return {pid for pid in members(sandbox) if Path(f"/proc/{pid}").exists()}


def test_a_fork_bomb_is_bounded(start: Any) -> None:
    """Neighbours do not notice, and stopping takes no time."""
    bombed, neighbour = start(pids=64), start()
    if bombed.capabilities.pids == "none":
        pytest.skip("this backend says that it holds no limit on processes")
    with within(20), pytest.raises(CommandTimeout):
        bombed.execute("bomb() { bomb | bomb & bomb; }; bomb; sleep 100", timeout=1)
    with within(5):
        assert neighbour.execute("echo fine").stdout == "fine\n"
        bombed.stop()


def test_memory_is_bounded(start: Any) -> None:
    sandbox = start(memory="256m")
    if sandbox.capabilities.memory == "none":
        pytest.skip("this backend says that it holds no memory limit")
    code = "x = bytearray(1 << 30); print('allocated')"
    result = sandbox.execute(["python3", "-I", "-S", "-c", code])
    assert result.exit_code != 0
    assert "allocated" not in result.stdout
    assert sandbox.execute("echo alive").stdout == "alive\n"


def test_core_files_are_not_written(sandbox: Any) -> None:
    result = sandbox.execute("ulimit -c; mkdir d; cd d; sh -c 'kill -SEGV $$'; ls -A")
    assert result.stdout == "0\n"


# Neighbours


def test_sandboxes_share_no_files(start: Any) -> None:
    one, two = start(), start()
    for path in ("/tmp/x", "/dev/shm/x", "x"):
        one.write_file(path, "mine")
        assert two.execute(["cat", path]).exit_code != 0
    two.execute('echo x > "$HOME/x"')
    assert one.execute('cat "$HOME/x"').exit_code != 0


def test_sandboxes_share_no_keys_and_no_ipc(start: Any) -> None:
    """System V and POSIX objects are each sandbox's own."""
    one, two = start(), start()
    make = "import ctypes\nprint(ctypes.CDLL(None).shmget(0x5267, 4096, 0o1777))"
    find = "import ctypes\nprint(ctypes.CDLL(None).shmget(0x5267, 4096, 0o777))"
    assert int(one.execute(["python3", "-I", "-S", "-c", make]).stdout) >= 0
    assert int(two.execute(["python3", "-I", "-S", "-c", find]).stdout) == -1


def test_the_first_process_is_not_a_way_out(python: Callable[[str], str]) -> None:
    """Its root and its working directory are the sandbox's."""
    assert json.loads(
        python(
            "import json, os\n"
            "def look(p):\n"
            "    try: return sorted(os.listdir(p))\n"
            "    except OSError: return None\n"
            "print(json.dumps([look('/proc/1/root') in (None, look('/')), "
            "look('/proc/1/root/root') in (None, look('/root')), "
            "look('/..') == look('/')]))"
        )
    ) == [True, True, True]


def test_programs_of_others_gain_nothing(sandbox: Any) -> None:
    """Set-user-id programs run as who starts them."""
    result = sandbox.execute(
        "for f in /usr/bin/su /usr/bin/sudo /usr/bin/passwd /usr/bin/mount /usr/bin/newgrp; do "
        "[ -u $f ] && $f --help >/dev/null 2>&1; done; id -u; "
        "find / -path /proc -prune -o -perm -4000 -type f -print 2>/dev/null | head -1 | "
        "xargs -r stat -c %n >/dev/null; grep CapEff /proc/self/status"
    )
    assert "CapEff:\t0000000000000000" in result.stdout
    assert "NoNewPrivs:\t1" in sandbox.execute("cat /proc/self/status").stdout
    if sandbox.backend == "docker":
        return  # the engine mounts without nosuid, and the line above is what stands against it
    mounts = sandbox.execute("cat /proc/self/mounts").stdout.splitlines()
    for line in mounts:
        _, _, kind, options = line.split()[:4]
        if kind in ("tmpfs", "ext4", "overlay", "xfs"):
            assert "nosuid" in options.split(","), line


def test_the_owners_memory_and_descriptors_are_out_of_reach(backend: str) -> None:
    """What an ordinary user's processes may do to each other stops at the sandbox's edge."""
    script = f"""
import json, os, sys, rock_gym
from tests.contract.support import descendants
sandbox = rock_gym.Sandbox.start(backend={backend!r})
sandbox.create_session()
print(json.dumps(sandbox.execute(
    "for p in /proc/[0-9]*; do readlink $p/exe; ls $p/fd; done 2>/dev/null"
).stdout), flush=True)
sandbox.stop()
"""
    with Owner(script, env={"PYTHONPATH": os.getcwd()}) as owner:
        shown = owner.tells()
    assert "launcher" not in shown


def test_probing_costs_little(sandbox: Any) -> None:
    """A thousand denied calls neither kill the sandbox nor slow it down."""
    start = time.monotonic()
    sandbox.execute("for i in $(seq 200); do unshare -r true 2>/dev/null; done")
    assert sandbox.is_alive()
    assert time.monotonic() - start < 20
