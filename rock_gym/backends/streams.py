"""The pipes of a process: those that we keep, and those that it gets."""

from __future__ import annotations

import os
import socket

from rock_gym.backends.handles import CHANNEL_FD, CONTROL, CONTROL_FD, SCRIPT_FD, STDERR, STDOUT


class Streams:
    """Our ends, and their ends with the numbers they get inside.

    Args:
        merge_stderr: As for ``Container.open``, like all that follow.
        control: As for ``Container.open``.
        channel: As for ``Container.open``.
    """

    def __init__(self, merge_stderr: bool, control: bool, channel: socket.socket | None) -> None:
        self.stdin: int | None = None
        self.outputs: dict[int, int] = {}
        self.theirs: list[int] = []
        self.targets: list[list[int]] = []
        self._borrowed: set[int] = set()
        self._output(STDOUT, [1, 2] if merge_stderr else [1])
        if not merge_stderr:
            self._output(STDERR, [2])
        if control:
            self._output(CONTROL, [CONTROL_FD])
        if channel is not None:
            self._borrowed.add(channel.fileno())
            self._give(channel.fileno(), [CHANNEL_FD])

    def open_empty(self) -> None:
        """Give it ``/dev/null`` to read."""
        self._give(os.open(os.devnull, os.O_RDONLY), [0])

    def open_stdin(self, number: int = 0) -> int:
        """Give it a pipe to read at a descriptor; returns the end that it gets."""
        read, self.stdin = os.pipe()
        self._give(read, [number])
        return read

    def open_script(self, kuid: int | None) -> None:
        """Give it a pipe for its script, beside ``/dev/null`` for its standard input."""
        self.open_empty()
        read = self.open_stdin(SCRIPT_FD)
        if kuid is not None:
            # The shell opens it by its name in /proc, which only its owner may.
            os.fchown(read, kuid, kuid)

    def _give(self, fd: int, numbers: list[int]) -> None:
        self.theirs.append(fd)
        self.targets.append(numbers)

    def _output(self, stream: int, numbers: list[int]) -> None:
        self.outputs[stream], write = os.pipe()
        self._give(write, numbers)

    def close_theirs(self) -> None:
        """Close what the process has got by now."""
        for fd in self.theirs:
            if fd not in self._borrowed:
                os.close(fd)

    def close_ours(self) -> None:
        """Close what we would have kept: there is no process."""
        for fd in self.outputs.values():
            os.close(fd)
        if self.stdin is not None:
            os.close(self.stdin)
