"""A figure for each promise, measured here and now: ``python -m tests.faults.figures``.

Prints a table for ``docs/security.md``. What takes long is done as often as is asked: 10 GiB of
output, and 10 000 cycles on embedded sandboxes and a tenth of that on Docker, take minutes. Of a
soak it takes what that has told: ``python -m tests.soak >soak.json``, then ``--soak soak.json``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rock_gym import Sandbox, SandboxPool
from rock_gym.errors import CommandTimeout
from tests.contract.support import Owner, eventually, namespace_members, run_owner, wait_gone

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
MIB = 1 << 20
DEAF = "trap '' TERM INT HUP QUIT; setsid sleep 600 & while :; do sleep 600; done"
# What is tried by tests, and has to fail or be refused: each test is one or more attempts.
REFUSALS = {
    "attempts to get out of a sandbox that fail": ["tests/escape"],
    "hostile images and archives refused or harmless": [
        "tests/contract/test_hostile_images.py",
        "tests/images/test_hostile_archives.py",
    ],
    "hostile requests and slow clients refused": [
        "tests/server/test_hostile_requests.py",
        "tests/server/test_slow_clients.py",
        "tests/server/test_manners.py",
    ],
}


def flood(backend: str, options: argparse.Namespace) -> str:
    """So much output of one command, and what it costs its owner."""
    size = options.flood_gib * GIB
    grown_kib, seconds, kept = run_owner(
        f"""
import json, resource, time, rock_gym
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with rock_gym.Sandbox.start(backend={backend!r}) as sandbox:
    sandbox.execute("seq 1 300000")
    before, begin = peak(), time.monotonic()
    result = sandbox.execute("head -c {size} /dev/zero; echo end", timeout=None)
    assert result.truncated and result.stdout.endswith("end\\n")
    grown = peak() - before
    print(json.dumps([grown, time.monotonic() - begin, len(result.stdout)]), flush=True)
""",
        timeout=3600,
    )
    return (
        f"{options.flood_gib} GiB in {seconds:.0f} s: {kept / MIB:.1f} MiB kept, owner grown "
        f"by {grown_kib / 1024:.0f} MiB"
    )


def fork_bomb(backend: str, _: argparse.Namespace) -> str:
    """How many processes a bomb gets, and what a neighbour feels of it."""

    def pace(sandbox: Sandbox) -> float:
        begin = time.perf_counter()
        for _ in range(50):
            sandbox.execute(["true"], check=True)
        return time.perf_counter() - begin

    bomb = (
        'exec python3 -I -S -c "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"'
    )
    with Sandbox.start(backend=backend) as calm, Sandbox.start(backend=backend, pids=100) as other:
        link = other.execute("readlink /proc/self/ns/pid").stdout.strip()
        before = pace(calm)
        thread = threading.Thread(target=_until_timeout, args=(other, bomb, 20.0))
        thread.start()
        eventually(lambda: (other.statistics().processes or 0) > 90)
        during = pace(calm)
        most = other.statistics().processes
        thread.join()
        begin = time.perf_counter()
        other.delete()
        gone = eventually(lambda: not namespace_members(link))
        took_s = time.perf_counter() - begin
    assert gone
    return (
        f"{most} processes at a limit of 100; a neighbour takes {during / before:.1f} times as "
        f"long; ended in {took_s:.1f} s"
    )


def _until_timeout(sandbox: Sandbox, command: str | list[str], timeout: float) -> None:
    try:
        sandbox.execute(command, timeout=timeout)
    except CommandTimeout:
        return


def memory(backend: str, _: argparse.Namespace) -> str:
    with Sandbox.start(backend=backend, memory="128m") as sandbox:
        hog = "head -c 900000000 /dev/zero | tail -c 800000000 >/dev/null"
        killed = [sandbox.execute(["/bin/sh", "-c", hog]) for _ in range(5)]
        alive = sandbox.execute("echo alive").stdout == "alive\n"
        how = sandbox.capabilities.memory
    count = sum(result.exit_code != 0 for result in killed)
    assert count == 5
    assert alive
    return f"800 MB asked for at a limit of 128 MiB: refused {count} of 5 times ({how})"


def disk(backend: str, _: argparse.Namespace) -> str:
    with Sandbox.start(backend=backend, disk="64m") as sandbox:
        result = sandbox.execute("head -c 1G /dev/zero >full; wc -c <full")
        held = int(result.stdout.split()[0])
        how = sandbox.capabilities.disk
    assert held <= 64 * MIB
    return f"1 GiB written at a limit of 64 MiB: {held / MIB:.0f} MiB were taken ({how})"


def timeouts(backend: str, _: argparse.Namespace) -> str:
    """How long after its limit a command that is deaf to signals ends, with all it started."""
    late: list[float] = []
    with Sandbox.start(backend=backend) as sandbox:
        link = sandbox.execute("readlink /proc/self/ns/pid").stdout.strip()
        own = len(namespace_members(link))
        for _ in range(20):
            begin = time.monotonic()
            _until_timeout(sandbox, ["/bin/sh", "-c", DEAF], 0.2)
            late.append(time.monotonic() - begin - 0.2)
        assert eventually(lambda: len(namespace_members(link)) <= own)
    return f"20 of 20 ended, the last {max(late) * 1000:.0f} ms after its limit; 0 processes left"


def owners(backend: str, _: argparse.Namespace) -> str:
    """How long what an owner started outlives it."""
    script = (
        "import rock_gym\n"
        f"held = [rock_gym.Sandbox.start(backend={backend!r}) for _ in range(5)]\n"
        "for each in held: each.create_session().run('sleep 600 &')\n"
        "print(1, flush=True)\ninput()\n"
    )
    longest, processes = 0.0, 0
    for _ in range(5):
        with Owner(script) as owner:
            owner.tells()
            below = owner.below()
            begin = time.monotonic()
            owner.kill()
            left = wait_gone(below, 20)
            longest = max(longest, time.monotonic() - begin)
            assert not left
            processes += len(below)
    return (
        f"5 killed with SIGKILL, {processes} processes below them: 0 left, the last gone after "
        f"{longest * 1000:.0f} ms"
    )


def at_once(backend: str, _: argparse.Namespace) -> str:
    count = 1000 if backend == "bubblewrap" else 20
    with SandboxPool(backend=backend) as pool:
        begin = time.monotonic()
        sandboxes = pool.acquire_many(count, timeout=600)
        took_s = time.monotonic() - begin
        results: list[Any] = pool.execute([f"echo {n}" for n in range(count)], sandboxes=sandboxes)
        right = sum(result.stdout == f"{n}\n" for n, result in enumerate(results))
    assert right == count
    return f"{count} started in {took_s:.0f} s, {right} answered"


def cycles(backend: str, options: argparse.Namespace) -> str:
    """What so many starts, uses and ends add to an owner."""
    count = options.cycles if backend == "bubblewrap" else options.cycles // 10
    kib, threads, descriptors, took_s = run_owner(
        f"""
import gc, json, os, threading, time, rock_gym
def held():
    gc.collect()
    kib = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
    return kib, threading.active_count(), len(os.listdir("/proc/self/fd"))
def cycle(count):
    for number in range(count):
        with rock_gym.Sandbox.start(backend={backend!r}) as sandbox:
            assert sandbox.execute(["echo", str(number)]).stdout == f"{{number}}\\n"
cycle({max(count // 10, 10)})
before, begin = held(), time.monotonic()
cycle({count})
print(json.dumps([*(b - a for a, b in zip(before, held())), time.monotonic() - begin]), flush=True)
""",
        timeout=3600,
    )
    return (
        f"{count} in {took_s:.0f} s: memory {kib:+d} KiB, threads {threads:+d}, descriptors "
        f"{descriptors:+d}"
    )


MEASURED: dict[str, Callable[[str, argparse.Namespace], str]] = {
    "a flood of output costs the owner little": flood,
    "fork bombs are bounded": fork_bomb,
    "memory is bounded": memory,
    "disk is bounded": disk,
    "no command outlives its limit": timeouts,
    "nothing outlives its owner": owners,
    "many at once": at_once,
    "start, use and end leave nothing": cycles,
}


def refusals(paths: Iterable[str]) -> str:
    """Run tests, each of which is an attempt that must fail, and count them."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    found = re.search(r"(\d+) passed", done.stdout)
    assert found is not None
    return f"{found[1]} of {found[1]}"


def soak_rows(path: str) -> list[tuple[str, str]]:
    """What a soak has told."""
    told = json.loads(Path(path).read_text())
    work = f"{told['seconds'] / 60:.0f} min, seed {told['seed']}, {', '.join(told['backends'])}"
    before, *_, after = told["memory_mib"]
    return [
        ("load held in a soak", f"{told['operations']} operations ({work})"),
        ("faults survived", f"{told['faults survived']} of {told['faults injected']}"),
        ("bad inputs refused", f"{told['bad inputs refused']}"),
        ("answers that were not as promised", f"{len(told['wrong'])}"),
        ("leaks", f"{told['leaks']}; memory {before} MiB before, {after} MiB after"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--flood-gib", type=int, default=10)
    parser.add_argument("--soak", metavar="FILE", help="What a soak has printed.")
    parser.add_argument("--backends", default="bubblewrap,docker")
    parser.add_argument("--only", default="", help="Part of a promise's words.")
    options = parser.parse_args()
    backends = options.backends.split(",")
    print(f"| promise | {' | '.join(backends)} |\n|---|{'---|' * len(backends)}")
    for promise, measure in MEASURED.items():
        if options.only in promise:
            row = [measure(backend, options) for backend in backends]
            print(f"| {promise} | {' | '.join(row)} |", flush=True)
    print("\n| promise | figure |\n|---|---|")
    for what, paths in REFUSALS.items():
        if options.only in what:
            print(f"| {what} | {refusals(paths)} |", flush=True)
    for what, figure in soak_rows(options.soak) if options.soak else ():
        print(f"| {what} | {figure} |")


if __name__ == "__main__":
    main()
