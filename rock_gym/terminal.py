"""A pseudo-terminal in a sandbox, for programs that want one and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rock_gym.backends.handles import Terminal
from rock_gym.errors import SpecError
from rock_gym.life import Life

if TYPE_CHECKING:
    from types import TracebackType

_LARGEST = 0xFFFF


class Pty:
    """A process whose standard streams are a terminal. Made by ``Sandbox.open_pty``.

    A context manager: leaving it kills the process. One thread may read while another one writes.
    Each read and write is a use of the sandbox; a terminal that is merely open is not.
    """

    def __init__(self, life: Life, terminal: Terminal) -> None:
        self._life = life
        self._terminal = terminal

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process, 128 + n after signal n, once ``wait`` has seen it."""
        return self._terminal.exit_code

    def fileno(self) -> int:
        """A descriptor to poll: readable when there is output, or at its end."""
        return self._terminal.fileno()

    def read(self, count: int = 65536) -> bytes:
        """Wait for output and return up to ``count`` bytes of it; none when it has come to its end.

        Raises:
            SandboxClosed: If the sandbox was stopped before.
        """
        with self._life.using():
            return self._terminal.read(count)

    def write(self, data: bytes) -> None:
        """Type: the process reads it, and the terminal echoes it unless it was told not to.

        Raises:
            BrokenPipeError: If the process has ended.
            SandboxClosed: If the sandbox was stopped before.
        """
        with self._life.using():
            self._terminal.write(data)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the terminal; programs are told of it.

        Raises:
            SpecError: If one of them is not between 1 and 65535.
        """
        self._terminal.resize(*check_size(rows, columns))

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of the process.

        Args:
            timeout: Seconds to wait; None for no limit.

        Returns:
            Its exit code, or None when the time ran out.

        Raises:
            SandboxLost: If the sandbox died.
            SandboxClosed: If it was stopped.
        """
        if self._terminal.exit_code is not None:
            return self._terminal.exit_code
        with self._life.using():
            return self._terminal.wait(timeout)

    def kill(self) -> None:
        """Kill the process and all it has started. Twice is fine."""
        self._terminal.kill()

    def close(self) -> None:
        """Kill the process if it still runs, and close the terminal. Twice is fine."""
        self._terminal.kill()
        self._terminal.close()

    def __enter__(self) -> Pty:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def check_size(rows: int, columns: int) -> tuple[int, int]:
    """Return the size of a terminal if it is one.

    Raises:
        SpecError: If one of them is not between 1 and 65535.
    """
    for name, value in (("rows", rows), ("columns", columns)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
            raise SpecError(f"{name} is a number from 1 to {_LARGEST}, not {value!r}")
    return rows, columns
