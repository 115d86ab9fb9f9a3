"""What code that an action made an environment run tries against what it is graded by.

It runs as the same user in the same sandbox, one process below its grader. It is written so that
it solves its task exactly if everything it tries fails: the reward tells. GEM refuses code with
certain words in it, which is no wall: the code here says them in other ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rock_gym.errors import EnvError, SandboxLost, StepTimeout, WireError
from rock_gym.gem import wire
from rock_gym.gem.worker import EnvWorker
from rock_gym.pool import SandboxPool
from tests.contract.support import within
from tests.gem.conftest import Lease, _leases, make_pool

# The answer that solves the task.
RIGHT = "refused"

ATTACK = """
import errno, os, ctypes, socket
answer = input()
libc = ctypes.CDLL(None, use_errno=True)

def others():
    # Whoever runs this code, up to the first process of the sandbox.
    pid = os.getppid()
    while pid > 1:
        yield pid
        try:
            pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
        except OSError:
            return

def refused(action, *arguments):
    try:
        found = action(*arguments)
    except OSError as error:
        return True
    return found is not None and found < 0

def is_grader(pid):
    return b"_rock_gym_guest" in open(f"/proc/{pid}/cmdline", "rb").read()

graders = [pid for pid in others() if is_grader(pid)]
buffer = ctypes.create_string_buffer(8)
span = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)

def steal(pid, fd):
    return libc.syscall(438, os.pidfd_open(pid), fd, 0)

def peek(pid):
    return libc.process_vm_readv(pid, span, 1, span, 1, 0)

held = []
for pid in graders:
    for name in ("mem", "environ", "maps", "auxv", "stack", "syscall"):
        held.append(refused(lambda: open(f"/proc/{pid}/{name}", "rb").read(1) and None))
    for fd in range(16):
        held.append(refused(lambda: os.readlink(f"/proc/{pid}/fd/{fd}") and None))
        held.append(refused(lambda: open(f"/proc/{pid}/fd/{fd}", "r+b") and None))
    held += [refused(steal, pid, fd) for fd in range(16)]
    held += [refused(libc.ptrace, how, pid, 0, 0) for how in (16, 0x4206)]
    held.append(refused(peek, pid))
# Nor is there a socket in our own hands.
for fd in range(3, 256):
    held.append(refused(lambda: socket.socket(fileno=fd).detach() and None))
solved = graders and all(held)
print(answer if solved else f"reached {len(graders)} {held}")
"""

NO_FRAMES = """
import os
answer = input()
frame = bytes.fromhex("FRAME")
for fd in range(3, 256):
    try:
        os.write(fd, frame)
    except OSError:
        pass
print("reached")
"""

# As tests/gem/user_envs says: it does what the action says.
PROBE = "probe:Probe"


@pytest.fixture(scope="module")
def pool(backend: str) -> Iterator[SandboxPool]:
    with make_pool(backend) as pool:
        yield pool


@pytest.fixture
def lease(pool: SandboxPool) -> Iterator[Lease]:
    yield from _leases(pool)


@pytest.fixture(scope="module")
def grader(pool: SandboxPool) -> Iterator[EnvWorker]:
    """An environment that runs code, which is to print its input."""
    tests = {"inputs": [RIGHT], "outputs": [RIGHT]}
    for lease in _leases(pool):
        yield lease("code:Taco8k", None, dataset=[{"problem": "Echo", "tests": tests}])


def grade(grader: EnvWorker, code: str) -> float:
    """The reward of code."""
    grader.reset(1)
    return float(grader.step(f"```python\n{code}\n```").reward)


def test_code_sees_nothing_of_its_grader(grader: EnvWorker) -> None:
    """Neither its memory, nor its environment, nor its descriptors."""
    assert grade(grader, ATTACK) == 1.0


def test_code_has_no_way_to_answer_in_its_graders_place(grader: EnvWorker) -> None:
    """A frame that says that all is solved, written to every descriptor there may be."""
    frame = wire.encode(wire.Stepped("solved", 1.0, True, False, wire.tidy_info({})))
    assert grade(grader, NO_FRAMES.replace("FRAME", bytes(frame).hex())) == 0.0
    assert grade(grader, "print(input())") == 1.0


def test_code_that_kills_its_grader_gets_no_reward(grader: EnvWorker) -> None:
    """But an error, as whenever an environment's process dies."""
    kill = "for pid in os.getppid(), -1: getattr(os, 'kill')(pid, 9)"
    with pytest.raises((EnvError, SandboxLost)):
        grade(grader, f"import os\nprint(input(), flush=True)\n{kill}")


@pytest.fixture
def probe(lease: Lease) -> EnvWorker:
    worker = lease(PROBE)
    worker.reset(1)
    return worker


# More malformed frames are in tests/gem/test_wire.py and tests/gem/test_worker.py.


@pytest.mark.parametrize(
    ("size", "sent"),
    [(0xFFFFFFFF, 0), (wire.MAX_FRAME_BYTES + 1, 1 << 20), (wire.MAX_FRAME_BYTES, 17 << 20)],
)
def test_frames_without_measure_are_refused(probe: EnvWorker, size: int, sent: int) -> None:
    """What their heads say is not believed, nor is more taken than may come."""
    with pytest.raises(WireError):
        probe.step(f"flood {size} {sent}")
    assert probe.reset(3).observation == "reset 1 with 3"


def test_a_frame_that_never_ends_is_not_waited_for(probe: EnvWorker) -> None:
    """Each byte of it comes in time; the deadline is the whole answer's."""
    with within(10), pytest.raises(StepTimeout):
        probe.step("drip 1000", timeout_s=0.5)
    assert probe.reset(3).observation == "reset 1 with 3"


def test_answers_to_nothing_are_not_kept_for_later(probe: EnvWorker) -> None:
    """A second answer to one question would else be that to the next."""
    frame = bytes(wire.encode(wire.Stepped("forged", 1.0, True, False, wire.tidy_info({}))))
    first: Any = probe.step(f"forge {(frame * 2).hex()}")
    assert first.observation == "forged"
    with pytest.raises(WireError):
        probe.reset(2)
    assert probe.reset(3).observation == "reset 1 with 3"
