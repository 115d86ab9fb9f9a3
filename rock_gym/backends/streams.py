"""The pipes of a process: those that we keep, and those that it gets."""

from __future__ import annotations

import os
import socket

from rock_gym.backends.base import CHANNEL_FD, CONTROL, CONTROL_FD, STDERR, STDOUT


class Streams:
    """Our ends, and their ends with the numbers they get inside.

    Args:
        stdin: As for ``Container.open``, like all that follow.
        merge_stderr: As for ``Container.open``.
        control: As for ``Container.open``.
        channel: As for ``Container.open``.
    """

    def __init__(
        self, stdin: bool, merge_stderr: bool, control: bool, channel: socket.socket | None
    ) -> None:
        self.stdin: int | None = None
        self.outputs: dict[int, int] = {}
        self.theirs: list[int] = []
        self.targets: list[list[int]] = []
        self._borrowed: set[int] = set()
        if stdin:
            read, self.stdin = os.pipe()
            self._give(read, [0])
        else:
            self._give(os.open(os.devnull, os.O_RDONLY), [0])
        self._output(STDOUT, [1, 2] if merge_stderr else [1])
        if not merge_stderr:
            self._output(STDERR, [2])
        if control:
            self._output(CONTROL, [CONTROL_FD])
        if channel is not None:
            self._borrowed.add(channel.fileno())
            self._give(channel.fileno(), [CHANNEL_FD])

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
