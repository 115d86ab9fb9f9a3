"""The system call filter, run here by an interpreter of its instructions.

What it does to programs on a real kernel is tested in ``tests/contract``.
"""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from rock_gym.backends import syscalls
from rock_gym.backends.seccomp import filter_program
from rock_gym.errors import BackendUnavailable

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = "allow", "kill"
MOST_STEPS = 20  # of an answer; a list of the calls would take hundreds


def answer(program: bytes, number: int, arch: int, *arguments: int) -> tuple[str | int, int]:
    """What the kernel is told: allow, kill, or an error's number; and after how many steps."""
    data = {0: number, 4: arch, **{16 + 8 * n: value for n, value in enumerate(arguments)}}
    at = steps = word = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("<HBBI", program, at * 8)
        at, steps = at + 1, steps + 1
        if code == 0x06:
            named = {0x7FFF0000: ALLOW, 0x80000000: KILL}
            return named.get(value, value & 0xFFFF), steps
        if code == 0x20:
            word = data.get(value, 0)
        elif code == 0x05:
            at += value
        else:
            holds = {0x15: word == value, 0x35: word >= value, 0x45: bool(word & value)}[code]
            at += if_true if holds else if_false


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_what_is_listed_is_allowed_and_all_else_is_not_there(machine: str) -> None:
    program = filter_program(machine)
    allowed, refused = syscalls.allowed(machine), syscalls.not_permitted(machine)
    assert not set(allowed.values()) & set(refused.values())
    closer = {allowed[name] for name in ("clone", "ioctl", "socket", "personality")}
    for number in [*range(1000), 0x3FFFFFFF, 0x40000000, 0x40000000 | 165, 0xFFFFFFFF]:
        told, steps = answer(program, number, MACHINES[machine])
        assert steps <= MOST_STEPS
        if number in refused.values():
            assert told == errno.EPERM, number
        elif number in closer:
            continue
        elif number in allowed.values():
            assert told == ALLOW, number
        else:
            assert told == errno.ENOSYS, number


def test_another_architectures_numbers_end_the_process(machine: str) -> None:
    """They would mean other calls."""
    i386, arm = 0x40000003, 0x40000028
    for arch in (i386, arm, *(set(MACHINES.values()) - {MACHINES[machine]})):
        assert answer(filter_program(machine), 1, arch)[0] == KILL


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("clone", (0x11,), ALLOW),
        ("clone", (0x3D0F00,), ALLOW),  # a thread
        *(("clone", (flag | 0x11,), errno.EPERM) for flag in (0x10000000, 0x20000, 0x40000000)),
        ("ioctl", (0, 0x5413), ALLOW),
        ("ioctl", (0, 0x5412), errno.EPERM),
        ("ioctl", (0, 0x541C), errno.EPERM),
        *(("socket", (family,), ALLOW) for family in (1, 2, 10)),
        # netlink, packets, AF_ALG, vsock, and one that does not exist yet
        *(("socket", (family,), errno.EAFNOSUPPORT) for family in (0, 16, 17, 38, 40, 99)),
        ("personality", (0xFFFFFFFF,), ALLOW),
        ("personality", (0x400000,), errno.EPERM),  # READ_IMPLIES_EXEC
    ],
)
def test_arguments_that_decide(
    machine: str, name: str, arguments: tuple[int, ...], told: str | int
) -> None:
    number = syscalls.allowed(machine)[name]
    assert answer(filter_program(machine), number, MACHINES[machine], *arguments)[0] == told


def test_owners_are_changed_to_nothing_where_there_is_but_one(machine: str) -> None:
    number = syscalls.allowed(machine)["fchownat"]
    assert answer(filter_program(machine), number, MACHINES[machine])[0] == ALLOW
    program = filter_program(machine, ignore_owners=True)
    assert answer(program, number, MACHINES[machine])[0] == 0


def test_what_libraries_fall_back_from_is_not_there(machine: str) -> None:
    """EPERM would be taken for a reason to give up. All architectures share these numbers."""
    for number in (425, 426, 427, 428, 430, 435, 442, 447):
        assert answer(filter_program(machine), number, MACHINES[machine])[0] == errno.ENOSYS


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_the_numbers_are_the_kernels(machine: str, header: str) -> None:
    """As far as the headers of this machine know the calls."""
    if not Path(header).exists():
        pytest.skip(f"{header} is not here")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", Path(header).read_text(), re.M)
    known = {name: int(number) for name, number in found}
    # The generic header has one name for what has an older variant of 32 bits.
    known |= {"newfstatat": known.get("newfstatat", known.get("fstatat", -1))}
    ours = {**syscalls.allowed(machine), **syscalls.not_permitted(machine)}
    shared = ours.keys() & known.keys()
    assert len(shared) > 250
    assert {name: ours[name] for name in shared} == {name: known[name] for name in shared}


def test_a_machine_without_a_table_is_told_of() -> None:
    with pytest.raises(BackendUnavailable, match="riscv64"):
        filter_program("riscv64")
