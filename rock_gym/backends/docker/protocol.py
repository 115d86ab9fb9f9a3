"""The words that a container's first process and we exchange; ``agent/agent.c`` has the same table.

Both directions are frames: three little-endian words (length, id, type) and a payload.
"""

from __future__ import annotations

import struct

VERSION = 1

# To the agent
SPAWN = 1
INPUT = 2
CLOSE_INPUT = 3
CREDIT = 4
KILL_BELOW = 5
KILL = 6
FORGET = 7
SNAPSHOT = 8
OPEN_READ = 9
PREAD = 10
OPEN_WRITE = 11
WRITE = 12
COMMIT = 13
PASS = 14
RENEW = 15
STATFS = 16
SETUP = 17
PROBE = 18
JOIN = 19
START_OVER = 20
RESIZE = 21
TREE = 30
COUNT = 31

# From the agent
READY = 1
OPENED = 2
OUTPUT = 3
ERROR = 4
CONTROL_OUTPUT = 5
DIED = 6
END = 7
KILLED = 8
ROOM = 9
BROKEN = 10
DATA = 11
DONE = 12
WRITER_IS = 13
COUNTED = 30

# Flags of SPAWN
WITH_INPUT = 1
MERGED = 2
WITH_CONTROL = 4
WITH_CHANNEL = 8
WITH_SOCKET = 16
WITH_TERMINAL = 32

# What a process may send before we have to grant more, and what may wait for it inside.
OUTPUT_WINDOW = 1 << 19
INPUT_WINDOW = 1 << 18
SLOTS = 1024
CHUNK_BYTES = 65536
LONGEST_FRAME = 4_000_000
RESET_MARK_BYTES = 32

HEADER = struct.Struct("<III")
WORD = struct.Struct("<I")
WORDS = struct.Struct("<II")
SIZE = struct.Struct("<HH")
AT = struct.Struct("<QI")
SPACE = struct.Struct("<5Q")
COUNTS = struct.Struct("<3I")
COUNT_FRAME = struct.Struct("<5I")


def frame(handle: int, kind: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return HEADER.pack(len(payload), handle, kind) + payload


def spawn_payload(
    flags: int, cwd: bytes, argv: list[bytes], env: list[bytes], size: bytes = b""
) -> bytes:
    """Return the payload that describes a process to start, with ``size`` on a terminal."""
    strings = b"\0".join([cwd, *argv, *env]) + b"\0"
    return HEADER.pack(flags, len(argv), len(env)) + size + strings
