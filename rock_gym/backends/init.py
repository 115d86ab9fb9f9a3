r"""The first process of a sandbox, as a program of its own: 300 bytes that need nothing inside.

A shell will not do for it. As the process that adopts all orphans it must reap them, must survive
``kill -9 -1`` from inside (only the first process does), and must end when its owner's end of a
pipe is closed; dash fails at the first, and not every image has bash. This one asks the kernel to
reap (SIGCHLD ignored), writes one byte to say that it runs, and reads until the end of file:

    rt_sigaction(SIGCHLD, {SIG_IGN}, NULL, 8)
    write(1, "\n", 1); close(1); close(2)
    do n = read(0, stack, 1); while (n == -EINTR || n > 0)
    exit(0)
"""

from __future__ import annotations

import platform
import struct

from rock_gym.errors import BackendUnavailable

# Assembled from the four lines above with GNU as; the last 33 bytes are the sigaction and "\n".
_CODE = {
    "x86_64": (
        62,
        "b80d000000bf11000000488d355f00000031d241ba080000000f05"  # rt_sigaction
        "b801000000bf01000000488d3564000000ba010000000f05"  # write
        "b803000000bf010000000f05"  # close(1)
        "b803000000bf020000000f05"  # close(2)
        "31c031ff4889e6ba010000000f05"  # read
        "4883f8fc74ec4885c07fe7"  # again, if interrupted or something was read
        "b83c00000031ff0f05"  # exit
        "0f1f00" + "01" + "00" * 31 + "0a",
    ),
    "aarch64": (
        183,
        "c81080d2200280d281030010020080d2030180d2010000d4"  # rt_sigaction
        "080880d2200080d2c1030010220080d2010000d4"  # write
        "280780d2200080d2010000d4"  # close(1)
        "280780d2400080d2010000d4"  # close(2)
        "e80780d2000080d2e1030091220080d2010000d4"  # read
        "1f1000b140ffff541f0000f10cffff54"  # again, if interrupted or something was read
        "a80b80d2000080d2010000d4"  # exit
        "1f2003d5" + "01" + "00" * 31 + "0a",
    ),
}
_BASE = 0x400000
_HEADERS_BYTES = 64 + 56


def init_program(machine: str | None = None) -> bytes:
    """Return the program as a static ELF executable.

    Args:
        machine: ``"x86_64"`` or ``"aarch64"``; None means this machine's.

    Raises:
        BackendUnavailable: If there is none for that machine.
    """
    machine = machine or platform.machine()
    if machine not in _CODE:
        raise BackendUnavailable(
            f"embedded sandboxes have no first process for {machine} yet; "
            "use backend='docker' on this machine"
        )
    number, text = _CODE[machine]
    code = bytes.fromhex(text)
    size = _HEADERS_BYTES + len(code)
    identification = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bit, little endian, version 1
    header = struct.pack(
        "<HHIQQQIHHHHHH",
        *(2, number, 1, _BASE + _HEADERS_BYTES, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    readable_and_executable = 5
    segment = struct.pack(
        "<IIQQQQQQ", 1, readable_and_executable, 0, _BASE, _BASE, size, size, 0x1000
    )
    return identification + header + segment + code
