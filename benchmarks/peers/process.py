"""A peer in a process of its own, which is asked for samples turn by turn."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from benchmarks.peers import venvs

ROOT = Path(__file__).parents[2]
# Sixty-four environments of gem, and all that ROCK imports, take seconds to come up.
ANSWER_S = 90.0


class PeerFailed(Exception):
    """Raised when a peer cannot be measured; says why in one line."""


class Peer:
    """A program of this package, and what it answers.

    Args:
        program: The module's name.
        *arguments: What it is told.
        venv: Whose packages it needs; without one it runs by this interpreter.

    Raises:
        PeerFailed: If the peer is not installed or does not come up.
    """

    def __init__(self, program: str, *arguments: str, venv: str | None = None) -> None:
        python = sys.executable if venv is None else _python(venv)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [python, "-m", f"benchmarks.peers.{program}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        try:
            if self._line() != "ready\n":
                raise PeerFailed(self._last_words())
        except PeerFailed:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def sample(self, name: str, count: int) -> list[float]:
        """Have it measure.

        Raises:
            PeerFailed: If it does not answer.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps([name, count]), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise PeerFailed(self._last_words()) from None
        line = self._line()
        if not line:
            raise PeerFailed(self._last_words())
        taken: list[float] = json.loads(line)
        return taken

    def _line(self) -> str:
        assert self._process.stdout is not None
        # An answer is one line and comes only after a question: nothing is left in the buffer.
        if not select.select([self._process.stdout], [], [], ANSWER_S)[0]:
            raise PeerFailed(f"no answer in {ANSWER_S:.0f} s")
        return self._process.stdout.readline()

    def _last_words(self) -> str:
        code = self._process.wait(10)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"it ended with {code}: {said[-1][:200] if said else 'without a word'}"

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        try:
            # At the end of its questions it ends what it has started.
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._errors.close()


def _python(venv: str) -> str:
    try:
        return str(venvs.interpreter(venv))
    except LookupError as error:
        raise PeerFailed(str(error)) from None


class Peers:
    """Those that a row is measured beside, as far as they are to be had.

    Args:
        stack: What ends them.

    Attributes:
        missing: Why those are not there that are not.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.missing: dict[str, str] = {}

    def start(
        self, name: str, program: str, *arguments: str, venv: str | None = None
    ) -> Peer | None:
        """Start one; returns None where that cannot be done, and keeps the reason."""
        try:
            peer = Peer(program, *arguments, venv=venv)
        except PeerFailed as error:
            self.missing[name] = str(error)
            return None
        self._stack.callback(peer.close)
        return peer
