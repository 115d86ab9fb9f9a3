"""The system call filter of sandboxes, assembled here into a classic BPF program.

It is a list of what is allowed (see ``syscalls``), an extra layer under namespaces without a
capability. A call that is not listed answers ENOSYS, as from an older kernel, so that programs
fall back; so does one that no one had thought of when the list was written. Of the allowed ones,
four are looked at more closely: clone (no new namespaces), ioctl (no typing into a terminal),
socket (no families but the usual) and personality (no odd worlds).

The number is looked up by halves in its sorted ranges: eight comparisons, where a list would take
hundreds. Calls that are allowed whatever their arguments cost nothing at all from Linux 5.11 on,
which computes such answers when a filter is installed.
"""

from __future__ import annotations

import errno
import functools
import platform
import struct

from rock_gym.backends import syscalls
from rock_gym.errors import BackendUnavailable

_LD_WORD = 0x20  # load a 32-bit word of seccomp_data
_JUMP = 0x05
_JUMP_EQUAL = 0x15
_JUMP_GREATER_EQUAL = 0x35
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06
_FARTHEST_TEST = 255
_INSTRUCTION_BYTES = 8

_AT_NUMBER, _AT_ARCH, _AT_ARGUMENT_0, _AT_ARGUMENT_1 = 0, 4, 16, 24
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

_NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
# Linux as it is, its 32-bit look, version 2.6 in its name, the question which it is, and the same
# addresses at each start, which debuggers ask for.
_PERSONALITIES = (0, 0x0008, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# What changes owners, which is done to nothing where a sandbox has but one user id.
_OWNERS = ("chown", "fchown", "lchown", "fchownat")


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _refuse(code: int) -> bytes:
    return _op(_RETURN, _ERRNO | code)


_PASS = _op(_RETURN, _ALLOW)
_UNKNOWN = _refuse(errno.ENOSYS)


def _one_of(values: tuple[int, ...], argument: int, then: bytes, otherwise: bytes) -> bytes:
    """Answer by whether the low word of an argument is one of some values.

    The kernel reads no more than that of these arguments. ``otherwise`` is one instruction.
    """
    tests = [
        _op(_JUMP_EQUAL, value, len(values) - place) for place, value in enumerate(values)
    ]  # each jumps over the tests that follow it and over the answer to none of them
    return _op(_LD_WORD, argument) + b"".join(tests) + otherwise + then


def _answers(machine: str, ignore_owners: bool) -> dict[int, bytes]:
    """Return what is answered to each number; to any other, that there is no such call."""
    allowed = syscalls.allowed(machine)
    refused = syscalls.not_permitted(machine)
    answers = dict.fromkeys(allowed.values(), _PASS)
    answers |= dict.fromkeys(refused.values(), _refuse(errno.EPERM))
    if ignore_owners:
        answers |= {allowed[name]: _refuse(0) for name in _OWNERS if name in allowed}
    answers[allowed["clone"]] = (
        _op(_LD_WORD, _AT_ARGUMENT_0)
        + _op(_JUMP_ANY_BIT, _NAMESPACE_FLAGS, 0, 1)
        + _refuse(errno.EPERM)
        + _PASS
    )
    answers[allowed["ioctl"]] = _one_of(
        (_TIOCSTI, _TIOCLINUX), _AT_ARGUMENT_1, _refuse(errno.EPERM), _PASS
    )
    answers[allowed["socket"]] = _one_of(
        (_AF_UNIX, _AF_INET, _AF_INET6), _AT_ARGUMENT_0, _PASS, _refuse(errno.EAFNOSUPPORT)
    )
    answers[allowed["personality"]] = _one_of(
        _PERSONALITIES, _AT_ARGUMENT_0, _PASS, _refuse(errno.EPERM)
    )
    return answers


def _ranges(answers: dict[int, bytes]) -> list[tuple[int, bytes]]:
    """Return where each stretch of numbers with one answer begins, in order."""
    found: list[tuple[int, bytes]] = []
    for number in range(max(answers) + 2):
        answer = answers.get(number, _UNKNOWN)
        if not found or found[-1][1] != answer:
            found.append((number, answer))
    return found


def _search(ranges: list[tuple[int, bytes]]) -> bytes:
    """Return the instructions that find the stretch of the loaded number, and answer."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    skipped = len(below) // _INSTRUCTION_BYTES
    start = ranges[middle][0]
    if skipped <= _FARTHEST_TEST:
        return _op(_JUMP_GREATER_EQUAL, start, skipped) + below + above
    return _op(_JUMP_GREATER_EQUAL, start, 0, 1) + _op(_JUMP, skipped) + below + above


@functools.cache
def filter_program(machine: str | None = None, *, ignore_owners: bool = False) -> bytes:
    """Assemble the filter.

    Args:
        machine: ``"x86_64"`` or ``"aarch64"``; None means this machine's.
        ignore_owners: Whether changing owners does nothing and succeeds. Package managers insist
            on it, and a sandbox with one user id has only one owner to give.

    Returns:
        The BPF program, 8 bytes an instruction, as ``bwrap --seccomp`` and prctl(2) take it.

    Raises:
        BackendUnavailable: If there is no table for that machine.
    """
    machine = machine or platform.machine()
    if machine not in syscalls.machines():
        raise BackendUnavailable(
            f"sandboxes have no system call filter for {machine} yet; "
            f"run them on one of: {', '.join(syscalls.machines())}"
        )
    return b"".join(
        [
            _op(_LD_WORD, _AT_ARCH),
            _op(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0),
            _op(_RETURN, _KILL),
            _op(_LD_WORD, _AT_NUMBER),
            # The x32 variants of calls are numbers beyond the last, and so do not exist.
            _search(_ranges(_answers(machine, ignore_owners))),
        ]
    )
