"""What code in a sandbox tries in order to get out, as a table.

``tests/contract/test_isolation.py`` looks at each wall; here are the ways over it, from inside one
sandbox, to things that the tests have put outside. They are looked at once more at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.escape.conftest import Attempt

NOT_THERE = {"ENOENT", "ESRCH", "ENOTDIR"}
NOT_ALLOWED = {"EPERM", "EACCES", "EROFS", "ENOSYS"}


def fails(*extra: str) -> Callable[[Any], bool]:
    """What was told is the names of errors that say no."""
    return lambda told: bool(told) and set(told) <= NOT_THERE | NOT_ALLOWED | set(extra)


@dataclass(frozen=True)
class Case:
    """An attempt.

    Attributes:
        code: Python code that knows the target, and tells something.
        holds: Whether that means that it failed.
    """

    code: str
    holds: Callable[[Any], bool]


LIBC = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def libc_call(name, *arguments):
    ctypes.set_errno(0)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
"""

CASES = {
    "read a secret by its path": Case(
        "tell([why(open, root + file) for file in files for root in "
        "('', '/proc/1/root', '/proc/self/root', '/proc/1/cwd/../../../../..', "
        "'/proc/thread-self/root/../../..')])",
        fails(),
    ),
    "find a secret by its name": Case(
        # What is shown of the system and of the interpreter is known, and large.
        "closed = {'/proc', '/sys', '/usr', sys.prefix, sys.base_prefix}\n"
        "tell([d for d, dirs, names in os.walk('/') if any(token in name for name in names) or "
        "(d in closed and dirs.clear())])",
        lambda told: told == [],
    ),
    "find a secret in an environment or a command line": Case(
        "import glob\ndef read(path):\n"
        "    try: return open(path, 'rb').read()\n"
        "    except OSError: return b''\n"
        "tell([p for p in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline')"
        " if b'pytest' in read(p) and p.split('/')[2] != str(os.getpid())])",
        lambda told: told == [],
    ),
    "write over a secret": Case(
        "tell([why(os.open, file, os.O_WRONLY | flag) for file in files "
        "for flag in (0, os.O_TRUNC, os.O_APPEND)])",
        fails(),
    ),
    "remove, replace and link a secret": Case(
        "open('mine', 'w').close()\n"
        "tell([why(action, *arguments) for file in files for action, arguments in ("
        "(os.remove, (file,)), (os.link, (file, 'linked')), (os.chmod, (file, 0)))])",
        fails(),
    ),
    "reach a secret through a link": Case(
        "for n, file in enumerate(files): os.symlink(file, f'l{n}')\n"
        "tell([why(open, f'l{n}', mode) for n in range(len(files)) for mode in ('r', 'r+')])",
        fails(),
    ),
    "signal a process of the host": Case(
        "tell([why(os.kill, pid, n) for n in (0, 15, 9)] + [why(os.killpg, pid, 9)])",
        fails(),
    ),
    "hold, trace and read a process of the host": Case(
        LIBC + "buffer = ctypes.create_string_buffer(64)\n"
        "span = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 64)\n"
        "tell([why(os.pidfd_open, pid), why(libc_call, 'ptrace', 16, pid, 0, 0), "
        "why(libc_call, 'ptrace', 0x4206, pid, 0, 0), "
        "why(libc_call, 'process_vm_readv', pid, span, 1, span, 1, 0), "
        "why(open, f'/proc/{pid}/mem'), why(open, f'/proc/{pid}/environ')])",
        fails(),
    ),
    "change the priority and the limits of a process of the host": Case(
        "import resource\n"
        "tell([why(os.setpriority, os.PRIO_PROCESS, pid, 19), why(os.sched_setaffinity, pid, {0}), "
        "why(resource.prlimit, pid, resource.RLIMIT_CPU, (1, 1)), why(os.getpgid, pid)])",
        fails(),
    ),
    "raise a limit of its own": Case(
        "import resource\n"
        "def more(which):\n"
        "    _, hard = resource.getrlimit(which)\n"
        "    try: resource.setrlimit(which, (hard + 1, hard + 1))\n"
        "    except ValueError: raise PermissionError(errno.EPERM, 'no') from None\n"
        "kinds = [getattr(resource, n) for n in dir(resource) if n.startswith('RLIMIT_')]\n"
        "tell([why(more, k) for k in kinds if resource.getrlimit(k)[1] != resource.RLIM_INFINITY])",
        fails(),
    ),
    "go before others": Case(
        "def never_be_killed():\n"
        "    with open('/proc/self/oom_score_adj', 'w') as f: f.write('-1000')\n"
        "tell([why(os.setpriority, os.PRIO_PROCESS, 0, -5), why(never_be_killed), "
        "why(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(50))])",
        fails(),
    ),
    "leave its control group": Case(
        "import glob\n"
        "found = glob.glob('/sys/fs/cgroup/**/cgroup.procs', recursive=True)\n"
        "tell([why(os.open, p, os.O_WRONLY) for p in found + ['/sys/fs/cgroup/cgroup.procs']] + "
        "[why(os.mkdir, '/sys/fs/cgroup/mine')])",
        fails(),
    ),
    "mount, by programs and by calls": Case(
        LIBC + "import shutil, subprocess\n"
        "def run(*argv):\n"
        "    if shutil.which(argv[0]) is None: raise FileNotFoundError(errno.ENOENT, argv[0])\n"
        "    if subprocess.run(argv, capture_output=True).returncode: raise OSError(1, argv[0])\n"
        "tell([why(run, *c.split()) for c in ('mount -t tmpfs none /tmp', 'mount --bind / /tmp', "
        "'mount -o remount,rw /', 'umount -l /proc', 'unshare -Urm true', 'unshare -Ur true', "
        "'nsenter -t 1 -a true', 'bwrap --bind / / true', 'chroot / true')] + "
        "[why(libc_call, 'mount', b'proc', b'/tmp', b'proc', 0, 0)])",
        fails(),
    ),
    "make and open devices": Case(
        "import stat\n"
        "def device(kind, major, minor):\n"
        "    name = f'/tmp/d{kind}-{major}-{minor}'\n"
        "    os.mknod(name, kind | 0o666, os.makedev(major, minor))\n"
        "    open(name, 'rb').read(1)\n"
        "block = [line.split()[:2] for line in open('/proc/partitions').read().splitlines()[2:]]\n"
        "tell([why(device, stat.S_IFBLK, int(a), int(b)) for a, b in block[:8]] + "
        "[why(device, stat.S_IFCHR, *both) for both in ((1, 1), (1, 2), (1, 11), (10, 229))])",
        fails(),
    ),
    "type into the terminal": Case(
        "tell([why(open, path, 'r+') for path in ('/dev/tty', '/dev/tty0', '/dev/ttyS0')])",
        fails("ENXIO", "ENODEV"),
    ),
    "connect to the host": Case(
        "import socket\n"
        "def connect(address):\n"
        "    with socket.socket() as s: s.settimeout(1); s.connect((address, port))\n"
        "tell([why(connect, address) for address in addresses])",
        fails("ENETUNREACH", "ECONNREFUSED", "EHOSTUNREACH"),
    ),
    # Whether one arrived is seen by the listener.
    "send datagrams to the host": Case(
        "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\n"
        "for address in addresses: why(s.sendto, b'x', (address, port))\n"
        "tell(why(s.sendto, b'x', ('255.255.255.255', port)))",
        lambda told: told in {"ENETUNREACH", "EACCES", "EPERM"},
    ),
    "ask for names": Case(
        "import socket\n"
        "def ask():\n"
        "    try: socket.getaddrinfo('example.com', 80)\n"
        "    except socket.gaierror: raise OSError(1, 'no') from None\n"
        "tell([why(ask)])",
        fails(),
    ),
    "make an interface and change addresses": Case(
        "import fcntl, socket, struct\n"
        "s = socket.socket(type=socket.SOCK_DGRAM)\n"
        "def up(name): fcntl.ioctl(s, 0x8914, struct.pack('16sh', name, 0x41) + bytes(22))\n"
        "tell([why(up, b'eth0'), why(up, b'lo'), why(socket.socket, 16, 3, 0), "
        "why(open, '/dev/net/tun', 'r+')])",
        fails("EAFNOSUPPORT", "ENODEV"),
    ),
    "see into the run directory of another sandbox": Case(
        "tell([why(os.stat, f'{run_dir}/{token}')] + "
        "[p for p in ('/run', run_dir) if os.path.isdir(p) and os.access(p, os.R_OK) "
        "and any(token in name for _, _, names in os.walk(p) for name in names)])",
        fails(),
    ),
    "load code into the kernel": Case(
        LIBC + "tell([why(libc_call, 'syscall', n, 0, 0, 0, 0) for n in "
        "((175, 313, 246, 320, 321) if os.uname().machine == 'x86_64' else (105, 273, 104, 280))])",
        fails(),
    ),
    "read what the kernel says of itself": Case(
        LIBC + "tell([why(open, p, 'rb') for p in ('/proc/kcore', '/dev/kmsg', '/dev/mem', "
        "'/sys/kernel/debug/tracing', '/sys/kernel/security/lsm')] + "
        "[why(libc_call, 'klogctl', 3, ctypes.create_string_buffer(64), 64)])",
        fails(),
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", CASES)
def test_it_fails(attempt: Attempt, name: str) -> None:
    case = CASES[name]
    told = attempt(case.code)
    assert case.holds(told), told


def test_the_attempts_can_succeed(attempt: Attempt) -> None:
    """On what is inside: so each of them fails because of where its target is."""
    told = attempt(
        LIBC + "import subprocess, socket\n"
        "child = subprocess.Popen(['sleep', '100'])\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "open('secret', 'w').write(token)\n"
        "tell([why(open, 'secret'), why(os.kill, child.pid, 0), why(os.pidfd_open, child.pid), "
        "why(open, f'/proc/{child.pid}/environ'), why(os.sched_setaffinity, child.pid, {0}), "
        "why(libc_call, 'ptrace', 0x4206, child.pid, 0, 0), "
        "why(socket.create_connection, server.getsockname()), why(os.link, 'secret', 'linked')])\n"
        "child.kill()"
    )
    assert told == ["done"] * len(told)
