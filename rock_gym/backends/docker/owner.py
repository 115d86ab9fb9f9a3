"""Who owns a container, and the process that removes what an owner leaves that was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from rock_gym.backends.docker import settings
from rock_gym.backends.docker.keeper import start_time

_PROGRAM = Path(__file__).with_name("keeper.py")


def owner_label() -> str:
    """Say which process we are, so that another can tell whether we still live."""
    where = {
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "namespace": os.readlink("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "start": start_time(os.getpid()),
    }
    return json.dumps(where)


def is_dead(owner: str) -> bool:
    """Whether an owner has certainly ended. Of other machines and containers nothing is known."""
    try:
        theirs, ours = json.loads(owner), json.loads(owner_label())
    except ValueError:
        return False
    if (theirs.get("boot"), theirs.get("namespace")) != (ours["boot"], ours["namespace"]):
        return False
    return start_time(theirs["pid"]) != str(theirs["start"])


class Keeper:
    """Our keeper process, as seen from here: it waits for our end and needs nothing until then.

    Args:
        url: Where the engine listens.
    """

    def __init__(self, url: str) -> None:
        self.owner = os.getpid()
        label = f"{settings.LABEL_OWNER}={owner_label()}"
        program = [sys.executable, "-I", "-S", str(_PROGRAM)]
        # A session of its own: Ctrl-C in the owner's terminal is for the owner alone.
        self._process = subprocess.Popen(
            [*program, url, label, str(self.owner), start_time(self.owner)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={},
            cwd="/",
        )

    def is_there(self) -> bool:
        """Whether it waits, and for this process: a fork needs one of its own."""
        return self.owner == os.getpid() and self._process.poll() is None

    def close(self) -> None:
        """End it, when nothing is left for it to remove. Twice is fine."""
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()
