"""What ``rock-gym run`` shows on a terminal while episodes are played."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rock_gym.cli_output import harmless

if TYPE_CHECKING:
    from rich.table import Table

    from rock_gym.episodes import Episode

__all__ = ["Board", "screen"]

_ROWS = 16
_MOVE = 40
_PER_SECOND = 8


class Board:
    """A row for each episode that is being played, and what came of the others below.

    Args:
        total: How many episodes there will be.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._playing: dict[int, tuple[Episode, str]] = {}
        self._turns = self._ended = self._faults = 0
        self._returns = 0.0
        self._begun_s = perf_counter()

    def __call__(self, slot: int, episode: Episode, action: str | None) -> None:
        """Take note of a turn, or that an episode begins."""
        self._turns += action is not None
        self._playing[slot] = episode, action or ""

    def end(self, episode: Episode) -> None:
        """Take note of an end."""
        self._ended += 1
        self._faults += episode.faulty
        self._returns += episode.total

    def __rich__(self) -> Table:
        """Draw it. Called by another thread, whenever the terminal is to show it anew."""
        from rich.markup import escape
        from rich.table import Column, Table

        env, move = Column("env", min_width=4), Column("last move", min_width=_MOVE)
        table = Table(env, "episode", "seed", "turn", "return", move, box=None)
        rows = sorted(self._playing.items())
        for slot, (episode, action) in rows[:_ROWS]:
            last = " ".join(harmless(action).split())[:_MOVE]
            shown = (slot, episode.episode, episode.seed, episode.steps, f"{episode.total:+.2f}")
            table.add_row(*map(str, shown), f"[dim]{escape(episode.end or last)}[/dim]")
        hidden = f", {len(rows) - _ROWS} more at play" if len(rows) > _ROWS else ""
        table.caption = f"{self._tell()}{hidden}"
        table.caption_justify = "left"
        return table

    def _tell(self) -> str:
        took_s = perf_counter() - self._begun_s
        told = [f"{self._ended} of {self._total} episodes"]
        if self._ended:
            told.append(f"mean return {self._returns / self._ended:+.3f}")
        told.append(f"{self._turns / took_s:.0f} steps/s")
        if self._faults:
            told.append(f"{self._faults} by a fault")
        return ", ".join(told)


def screen(board: Board, shown: bool) -> AbstractContextManager[Any]:
    """Show a board on the terminal of standard error while the context lasts, or nothing."""
    if not shown:
        return nullcontext()
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    return Live(board, console=console, refresh_per_second=_PER_SECOND, transient=True)
