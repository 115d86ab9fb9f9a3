"""Output as it comes: handed to a callback while a command runs, or iterated over.

Text is decoded piece by piece, so that a character that is split between two pieces arrives whole.
What is handed on is all of it; what a result keeps is bounded as ever.
"""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rock_gym.backends.handles import STDERR, STDOUT, Process
from rock_gym.errors import CommandTimeout, SandboxLost
from rock_gym.output import Output
from rock_gym.shell import CommandResult, command_failed

if TYPE_CHECKING:
    from types import TracebackType

    from rock_gym.life import Use

OnOutput = Callable[[str, str], None]
NAMES = {STDOUT: "stdout", STDERR: "stderr"}


class Abandoned(TimeoutError):
    """Raised into a command's loop when its output could not be handed on; ends the command."""


class _Decoder:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def decode(self, data: bytes, final: bool = False) -> str:
        return self._decoder.decode(data, final)


class HandedOn(Output):
    """Output that is also given to a callback.

    Args:
        name: The stream's name.
        on_output: The callback. What it raises ends the command, and is kept.
    """

    def __init__(self, name: str, on_output: OnOutput) -> None:
        super().__init__()
        self._name = name
        self._on_output = on_output
        self._decoder = _Decoder()
        self.error: BaseException | None = None

    def add(self, data: bytes) -> None:
        """Append a chunk, and hand it on.

        Raises:
            Abandoned: If the callback raised.
        """
        super().add(data)
        self._hand_on(self._decoder.decode(data))

    def finish(self) -> None:
        """Hand on what was left of a broken character, and raise what the callback raised."""
        if self.error is None:
            self._hand_on(self._decoder.decode(b"", final=True), last=True)
        if self.error is not None:
            raise self.error

    def _hand_on(self, text: str, last: bool = False) -> None:
        if not text or self.error is not None:
            return
        try:
            self._on_output(self._name, text)
        except BaseException as error:
            self.error = error
            if not last:
                raise Abandoned("the callback for the output has raised") from error


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of output.

    Attributes:
        stream: ``"stdout"`` or ``"stderr"``.
        text: The piece.
    """

    stream: str
    text: str


class CommandStream:
    """A command whose output is iterated over while it runs. Made by ``Sandbox.stream``.

    A context manager: leaving it before the end kills the command. Not for several threads.

    Attributes:
        result: How it went, once the iteration has come to its end; None before.
    """

    def __init__(
        self,
        command: object,
        start: Callable[[], Process],
        use: Use,
        timeout_s: float | None,
        check: bool,
    ) -> None:
        self.result: CommandResult | None = None
        self._owner = os.getpid()
        self._command = command
        self._timeout_s = timeout_s
        self._check = check
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._outputs = {STDOUT: Output(), STDERR: Output()}
        self._decoders = {STDOUT: _Decoder(), STDERR: _Decoder()}
        self._cleanup = ExitStack()
        self._use = use
        # Entered for as long as it runs, so that it counts as a use.
        self._cleanup.enter_context(use)
        try:
            self._process: Process | None = start()
        except BaseException as error:
            self._leave(error)
            raise

    def __iter__(self) -> Iterator[Chunk]:
        """Yield output as it comes.

        Raises:
            CommandTimeout: If it outlived its limit; all it started has been killed.
            CommandFailed: If ``check`` and its code is not 0.
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
        """
        try:
            yield from self._follow()
        except BaseException as error:
            self._kill()
            if isinstance(error, SandboxLost):
                error.output = self._kept()
            self._leave(error)
            raise
        self._leave(None)
        if self._check and self.result is not None and self.result.exit_code:
            raise command_failed(self._command, self.result, self._use.sandbox_id)

    def _follow(self) -> Iterator[Chunk]:
        process = self._process
        if process is None:
            return
        while process.exit_code is None:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                process.kill()
                raise CommandTimeout(
                    f"the command ran longer than {self._timeout_s:g} s and was killed; "
                    "pass a larger timeout, or None for no limit",
                    output=self._kept(),
                )
            for stream, data in process.receive(left):
                self._outputs[stream].add(data)
                if text := self._decoders[stream].decode(data):
                    yield Chunk(NAMES[stream], text)
        for stream, decoder in self._decoders.items():
            if text := decoder.decode(b"", final=True):
                yield Chunk(NAMES[stream], text)
        out, err = self._outputs[STDOUT], self._outputs[STDERR]
        code, cut = process.exit_code, out.truncated or err.truncated
        self.result = self._use.explain(CommandResult(out.text(), err.text(), code, cut))

    def _kept(self) -> str:
        return self._outputs[STDOUT].text() + self._outputs[STDERR].text()

    def _kill(self) -> None:
        if self._process is not None and self._process.exit_code is None:
            self._process.kill()

    def _leave(self, error: BaseException | None) -> None:
        """Give up the process, and end the use, which may turn the error into another one."""
        process, self._process = getattr(self, "_process", None), None
        if process is not None:
            process.close()
        self._cleanup.__exit__(type(error) if error else None, error, None)

    def close(self) -> None:
        """Kill the command if it still runs. Twice is fine."""
        self._kill()
        self._leave(None)

    def __enter__(self) -> CommandStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None and self._owner == os.getpid():
            self.close()
