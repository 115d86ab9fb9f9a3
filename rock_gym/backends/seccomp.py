"""The system call filter of embedded sandboxes, assembled here into a classic BPF program.

It is an extra layer under namespaces without a capability: it refuses what reaches past them
(keyrings, kernel modules, io_uring, AF_VSOCK, AF_ALG), what makes new namespaces, and terminal
injection. What programs probe for and can do without answers ENOSYS, so that they fall back.
"""

from __future__ import annotations

import errno
import functools
import platform
import struct

from rock_gym.errors import BackendUnavailable

_LD_WORD = 0x20  # load a 32-bit word of seccomp_data
_JUMP_EQUAL = 0x15
_JUMP_GREATER_EQUAL = 0x35
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06

_AT_NUMBER, _AT_ARCH, _AT_ARGUMENT_0, _AT_ARGUMENT_1 = 0, 4, 16, 24
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

_NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_X32_BIT = 0x40000000

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_MACHINES = {"x86_64": 0, "aarch64": 1}

# name: (number on x86_64, number on aarch64); None where the architecture has no such call.
_NOT_PERMITTED: dict[str, tuple[int | None, int | None]] = {
    # keys that the kernel holds for others
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # the tree of mounts
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    # namespaces
    "unshare": (272, 97),
    "setns": (308, 268),
    # the machine itself
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    # large and rarely needed doors into the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "lookup_dcookie": (212, 18),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "process_madvise": (440, 440),
}
_NOT_THERE: dict[str, tuple[int | None, int | None]] = {
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Its flags lie in memory, where a filter cannot look; libraries then use clone.
    "clone3": (435, 435),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
}
# What changes owners, which is done to nothing where a sandbox has but one user id.
_OWNERS: dict[str, tuple[int | None, int | None]] = {
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
}
_CLONE = (56, 220)
_IOCTL = (16, 29)
_SOCKET = (41, 198)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _refuse(code: int) -> bytes:
    return _op(_RETURN, _ERRNO | code)


def _refuse_calls(numbers: list[int], code: int) -> bytes:
    if not numbers:
        return b""
    # Each test jumps over those that follow it to the refusal that all share.
    tests = [
        _op(_JUMP_EQUAL, number, len(numbers) - place - 1, 0 if place < len(numbers) - 1 else 1)
        for place, number in enumerate(numbers)
    ]
    return b"".join(tests) + _refuse(code)


def _for_call(number: int, body: bytes) -> bytes:
    return _op(_JUMP_EQUAL, number, 0, len(body) // 8) + body


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
    column = _MACHINES.get(machine)
    if column is None:
        raise BackendUnavailable(
            f"embedded sandboxes have no system call filter for {machine} yet; "
            "use backend='docker' on this machine"
        )
    refused = [pair[column] for pair in _NOT_PERMITTED.values()]
    missing = [pair[column] for pair in _NOT_THERE.values()]
    owners = [pair[column] for pair in _OWNERS.values()] if ignore_owners else []
    families = (_AF_UNIX, _AF_INET, _AF_INET6)
    return b"".join(
        [
            _op(_LD_WORD, _AT_ARCH),
            _op(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0),
            _op(_RETURN, _KILL),
            _op(_LD_WORD, _AT_NUMBER),
            # The x32 variants of the calls have numbers of their own, which no table here lists.
            _op(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1),
            _refuse(errno.ENOSYS),
            _refuse_calls([number for number in refused if number is not None], errno.EPERM),
            _refuse_calls([number for number in missing if number is not None], errno.ENOSYS),
            _refuse_calls([number for number in owners if number is not None], 0),
            _for_call(
                _CLONE[column],
                _op(_LD_WORD, _AT_ARGUMENT_0)
                + _op(_JUMP_ANY_BIT, _NAMESPACE_FLAGS, 0, 1)
                + _refuse(errno.EPERM)
                + _op(_RETURN, _ALLOW),
            ),
            _for_call(
                _IOCTL[column],
                _op(_LD_WORD, _AT_ARGUMENT_1)
                + _op(_JUMP_EQUAL, _TIOCSTI, 1, 0)
                + _op(_JUMP_EQUAL, _TIOCLINUX, 0, 1)
                + _refuse(errno.EPERM)
                + _op(_RETURN, _ALLOW),
            ),
            _for_call(
                _SOCKET[column],
                _op(_LD_WORD, _AT_ARGUMENT_0)
                + b"".join(
                    _op(_JUMP_EQUAL, family, len(families) - place, 0)
                    for place, family in enumerate(families)
                )
                + _refuse(errno.EAFNOSUPPORT),
            ),
            _op(_RETURN, _ALLOW),
        ]
    )
