"""System calls as data: what a new process does before it becomes what it is for.

The forker makes them from an order; a fork of the launcher, which some work needs for its Python,
makes the same ones through ctypes. So who a process is inside is written down once.
"""

import ctypes
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

START, JOIN_DIRECTLY, JOIN_BY_ANOTHER = 1, 2, 3
TAKEN, CALL_FAILED, FAILED = 1, 2, 3
ABOUT_DIRECTORY, WITH_PATH = 1, 2
REPORT = struct.Struct("=IIII")  # kind, error number, detail, bytes of text that follow

_ORDER = struct.Struct("=IIII")
_CALL = struct.Struct("=II6Q")
_POINTER, _DESCRIPTOR = 1, 2
_MAY_FAIL = 1 << 31
_AT_FDCWD = -100

# The order is the forker's table.
_NAMES = (
    "setns",
    "unshare",
    "mount",
    "prctl",
    "setsid",
    "setgroups",
    "setresgid",
    "setresuid",
    "capset",
    "umask",
    "mkdirat",
    "fchownat",
    "prlimit64",
    "chdir",
    "close",
    "install_seccomp",
    "write_to",
    "become",
)
_NUMBERS = {name: number for number, name in enumerate(_NAMES)}

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2

_libc = ctypes.CDLL(None, use_errno=True)


class Fd(int):
    """One of the descriptors that come along with an order, by its place among them."""


Argument = int | str | bytes | None


class Call(NamedTuple):
    """One system call, or one of three short sequences of them.

    Attributes:
        name: As the kernel has it; ``install_seccomp``, ``write_to`` or ``become`` else.
        arguments: Numbers, texts, structures; None stands for a null pointer.
        may_fail: Whether the calls after it are made even when this one fails.
    """

    name: str
    arguments: tuple[Argument, ...]
    may_fail: bool = False


def call(name: str, *arguments: Argument) -> Call:
    """Describe a call that must not fail."""
    return Call(name, arguments)


def mkdir(path: str, mode: int, *, may_exist: bool = False) -> Call:
    """Describe the making of a directory."""
    return Call("mkdirat", (_AT_FDCWD, path, mode), may_exist)


def chown(path: str, uid: int) -> Call:
    """Describe the giving of a file to a user, and to the group of the same number."""
    return call("fchownat", _AT_FDCWD, path, uid, uid, 0)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> Call:
    """Describe a mount; an empty string stands for a null pointer."""
    return call("mount", source or None, target, kind or None, flags, data or None)


def limit(resource: int, value: int) -> Call:
    """Describe a limit, hard and soft, of the process itself."""
    return call("prlimit64", 0, resource, struct.pack("=QQ", value, value), None)


def become(argv: Sequence[str]) -> Call:
    """Describe the exec of a program in an empty environment."""
    return call("become", "\0".join(argv), len(argv))


def encode(kind: int, calls: Sequence[Call], placed: int = 0) -> bytes:
    """Return the order to make calls.

    Args:
        kind: START or one of the joins.
        calls: What to do, in this order.
        placed: How many of the descriptors get the numbers 0, 1, 2, ...
    """
    head = [_ORDER.pack(kind, len(calls), placed, 0)]
    blob = bytearray()
    for name, arguments, may_fail in calls:
        kinds, words = _MAY_FAIL if may_fail else 0, [0] * 6
        for place, argument in enumerate(arguments):
            if isinstance(argument, str | bytes):
                kinds |= _POINTER << 2 * place
                words[place] = len(blob)
                blob += os.fsencode(argument) if isinstance(argument, str) else argument
                blob += bytes(8 - len(blob) % 8)  # a text ends with a zero, a structure is aligned
            elif argument is not None:
                if isinstance(argument, Fd):
                    kinds |= _DESCRIPTOR << 2 * place
                words[place] = argument & 0xFFFFFFFFFFFFFFFF
        head.append(_CALL.pack(_NUMBERS[name], kinds, *words))
    return b"".join((*head, blob))


def describe(calls: Sequence[Call], number: int, error: int) -> str:
    """Say which call of an order has failed, and how."""
    name, arguments, _ = calls[number]
    texts = [text.partition("\0")[0] for text in arguments if isinstance(text, str)]
    what = f"{name} {' '.join(texts)}".strip()
    return f"{what}: {os.strerror(error)}"


def run(calls: Iterable[Call], fds: Sequence[int] = ()) -> None:
    """Make calls in this process.

    Raises:
        OSError: If one fails.
    """
    for each in calls:
        arguments = [fds[value] if isinstance(value, Fd) else value for value in each.arguments]
        if each.name in _COMPOSED:
            _COMPOSED[each.name](*arguments)
            continue
        function = getattr(_libc, each.name)
        converted = [ctypes.c_long(a) if isinstance(a, int) else _pointer(a) for a in arguments]
        if function(*converted) < 0 and not each.may_fail:
            error = ctypes.get_errno()
            raise OSError(error, describe([each], 0, error))


def _pointer(value: str | bytes | None) -> bytes | None:
    return os.fsencode(value) if isinstance(value, str) else value


class _BpfProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _install_seccomp(program: bytes, size: int) -> None:
    bpf = _BpfProgram(size // 8, program)
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(bpf), 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"seccomp: {os.strerror(error)}")


def _write_to(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _become(joined: str, _: int) -> None:
    argv = joined.split("\0")
    os.execve(argv[0], argv, {})


_COMPOSED: dict[str, Callable[..., None]] = {
    "install_seccomp": _install_seccomp,
    "write_to": _write_to,
    "become": _become,
}
