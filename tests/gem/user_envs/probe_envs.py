"""Environments that a user may have registered with GEM: one does what the action says."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import gem
import numpy as np


class Strange:
    def __repr__(self) -> str:
        raise RuntimeError("not even that")


def weird_info() -> dict[Any, Any]:
    deep: list[Any] = []
    deep.append(deep)
    nested: Any = 0
    for _ in range(200):
        nested = [nested]
    return {
        1: "one",
        None: np.float32(0.5),
        "array": np.arange(3),
        "matrix": np.ones((2, 2)),
        "flag": np.bool_(True),
        "nan": float("nan"),
        "inf": float("inf"),
        "big": 2**100,
        "huge": 10**5000,
        "set": {3, 1, 2},
        "tuple": (1, "a"),
        "bytes": b"\xff\x00a",
        "object": object,
        "strange": Strange(),
        "self": deep,
        "deep": nested,
        "surrogate": "a\ud800b",
        "str": np.str_("text"),
    }


class Probe(gem.Env):
    def __init__(self, fail: str | None = None, **kwargs: Any) -> None:
        self.kwargs = kwargs
        self.resets = 0
        if fail == "raise":
            raise RuntimeError("not made")
        if fail == "module":
            import no_such_module_anywhere  # noqa: F401
        if fail == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fail == "hang":
            while True:
                pass

    def reset(self, seed: int | None = None) -> tuple[Any, Any]:
        super().reset(seed)
        self.resets += 1
        if seed == 13:
            raise ValueError("an unlucky seed")
        return f"reset {self.resets} with {seed}", {"kwargs": self.kwargs}

    def step(self, action: str) -> tuple[Any, Any, Any, Any, Any]:
        verb, _, rest = action.partition(" ")
        observation = getattr(self, f"do_{verb}")(rest)
        if isinstance(observation, tuple):
            return observation
        return observation, 0.0, False, False, {}

    def do_echo(self, rest: str) -> str:
        return rest

    def do_print(self, rest: str) -> str:
        for stream in (sys.stdout, sys.stderr):
            print("noise " * 100_000, file=stream, flush=True)
        os.write(1, b"\x00\x00\x00\x01x" * 1000)
        return "printed"

    def do_raise(self, rest: str) -> str:
        raise RuntimeError(rest)

    def do_exit(self, rest: str) -> str:
        sys.exit(3)

    def do_die(self, rest: str) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return "?"

    def do_hang(self, rest: str) -> str:
        # One call that never comes back and never lets go of the interpreter.
        return str(sum(itertools.repeat(0)))

    def do_info(self, rest: str) -> Any:
        return "info", np.float64(1.5), np.bool_(True), 0, weird_info()

    def do_noinfo(self, rest: str) -> Any:
        return None, 1, True, True, None

    def do_listinfo(self, rest: str) -> Any:
        return "", float("nan"), False, False, [1, 2]

    def do_badreward(self, rest: str) -> Any:
        return "", "lots", False, False, {}

    def do_surrogate(self, rest: str) -> str:
        return "a\ud800b\U0001f600"

    def do_text(self, rest: str) -> str:
        return "x" * int(rest)

    def do_biginfo(self, rest: str) -> Any:
        return "", 0.0, False, False, {"text": "x" * int(rest)}

    def do_descriptors(self, rest: str) -> str:
        found = []
        for fd in os.listdir("/proc/self/fd"):
            # One of them was that of the listing itself.
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/self/fd/{fd}"))
        return "\n".join(found)

    def do_false(self, rest: str) -> str:
        return str(subprocess.run(["false"], check=False).returncode)

    def do_modules(self, rest: str) -> str:
        return " ".join(name for name in rest.split() if name in sys.modules)

    def do_bytecode(self, rest: str) -> str:
        return sys.modules[rest].__spec__.cached

    def do_path(self, rest: str) -> str:
        return "\n".join(sys.path)

    def do_where(self, rest: str) -> str:
        return os.getcwd()

    def do_forge(self, rest: str) -> str:
        """Send bytes of our own over the socket to the host, in place of an answer."""
        self._answer(bytes.fromhex(rest))
        return "forged"

    def do_flood(self, rest: str) -> str:
        """Send the head of a frame that is said to be so long, and so many bytes."""
        size, sent = rest.split()
        self._answer(int(size).to_bytes(4, "big") + bytes(int(sent)))
        return "flooded"

    def do_drip(self, rest: str) -> str:
        """Send a frame of that size, a byte at a time."""
        self._answer(int(rest).to_bytes(4, "big"))
        for _ in range(int(rest)):
            time.sleep(0.05)
            self._answer(b"\0")
        return "dripped"

    def _answer(self, data: bytes) -> None:
        for fd in os.listdir("/proc/self/fd"):
            try:
                sock = socket.socket(fileno=os.dup(int(fd)))
            except OSError:
                continue
            with sock:
                sock.sendall(data)


gem.register("probe:Probe", "probe_envs:Probe")
gem.register("probe:Fails", "probe_envs:Probe", fail="raise")
gem.register("probe:Lacks", "probe_envs:Probe", fail="module")
gem.register("probe:Dies", "probe_envs:Probe", fail="die")
gem.register("probe:Hangs", "probe_envs:Probe", fail="hang")
