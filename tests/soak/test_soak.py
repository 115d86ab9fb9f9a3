"""The soak in short: in CI for less than a minute, and by hand for half an hour."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import BACKENDS, required, why_unusable

SECONDS = 40
SEED = 1


@pytest.mark.timeout(420)
def test_whatever_breaks_nothing_is_left_and_no_fault_looks_like_a_reward() -> None:
    backends = [name for name in BACKENDS if why_unusable(name) is None]
    assert required() <= set(backends)
    if not backends:
        pytest.skip("no backend works here")
    command = [sys.executable, "-m", "tests.soak", "--seconds", str(SECONDS), "--seed", str(SEED)]
    done = subprocess.run(
        [*command, "--backends", ",".join(backends)],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    print(done.stdout, done.stderr)
    told = json.loads(done.stdout)
    assert told["wrong"] == []
    assert told["left behind"] == []
    assert told["faults survived"] == told["faults injected"] > 0
    assert told["operations"] > 0
    assert told["bad inputs refused"] > 0
    assert done.returncode == 0
