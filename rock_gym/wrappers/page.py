"""A cassette as one page to read: episodes with their boards, actions, rewards and times.

The page needs nothing from anywhere and runs no script. All that was recorded is escaped, as it may
have come out of a sandbox or a model.
"""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rock_gym.errors import CassetteError
from rock_gym.wrappers.cassette import Cassette
from rock_gym.wrappers.events import Event, read_events

__all__ = ["write_page"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; --up: #2a8; --down: #c54; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 0 .3rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid var(--line) }
pre { background: #8881; border-radius: 6px; padding: .6rem .8rem; margin: .35rem 0;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.25 monospace }
pre.action { background: none; border-left: 3px solid #48c; border-radius: 0 }
section > div { border-top: 1px solid var(--line); padding: .6rem 0 }
.dim, summary { color: var(--dim) } .up { color: var(--up) } .down, .fault { color: var(--down) }
svg { display: block; margin: .3rem 0 } a { color: inherit }
""".strip()

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SHOWN_BAD = dict.fromkeys(
    [*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}"
)
_BAR, _TALL = 6, 40
_FEW = 5


def write_page(
    cassette: str | os.PathLike[str], target: str | os.PathLike[str], *, most_steps: int = 20_000
) -> int:
    """Write a cassette as one self-contained page of HTML.

    Args:
        cassette: The cassette.
        target: The page, which is replaced if it is there.
        most_steps: How many steps to show. The page says so if there are more.

    Returns:
        How many episodes it shows.

    Raises:
        CassetteError: If the cassette cannot be read, or the page cannot be written.
    """
    read = Cassette(cassette)
    episodes, cut = _gather(read_events(read), most_steps)
    page = _page(read, episodes, most_steps if cut else None)
    try:
        # Halves of surrogate pairs are no characters, and no page can hold them.
        with open(target, "w", encoding="utf-8", errors="replace") as file:
            file.write(page)
    except OSError as error:
        raise CassetteError(f"{os.fspath(target)} cannot be written: {error.strerror}") from error
    return len(episodes)


@dataclass
class _Episode:
    env: int
    number: int
    began: Event
    steps: list[Event] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"e{self.env}-{self.number}"

    @property
    def total(self) -> float:
        return sum(_number(step.reward) for step in self.steps)

    @property
    def end(self) -> str:
        last = self.steps[-1] if self.steps else self.began
        if last.fault is not None:
            return last.fault
        return "terminated" if last.terminated else "truncated" if last.truncated else "unfinished"


def _gather(events: Iterable[Event], most_steps: int) -> tuple[list[_Episode], bool]:
    """Return the episodes in the order in which they began, and whether some were left out."""
    episodes: list[_Episode] = []
    playing: dict[int, _Episode] = {}
    count = 0
    for event in events:
        if event.begins:
            before = playing.get(event.env)
            number = 1 if before is None else before.number + 1
            playing[event.env] = _Episode(event.env, number, event)
            episodes.append(playing[event.env])
        elif event.env in playing:
            count += 1
            if count > most_steps:
                return episodes, True
            playing[event.env].steps.append(event)
    return episodes, False


def _page(cassette: Cassette, episodes: list[_Episode], shown: int | None) -> str:
    title = f"{_name(cassette)} \N{EN DASH} recorded by rock-gym"
    cut = "" if shown is None else f"<p class=fault>Only the first {shown} steps are shown.</p>"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{_text(_name(cassette))}</h1>",
            f"<p class=dim>{_text(_about(cassette))}</p>{cut}",
            _overview(episodes, cassette.is_vector),
            *(_section(episode, cassette.is_vector) for episode in episodes),
            "</body></html>\n",
        ]
    )


def _name(cassette: Cassette) -> str:
    env = cassette.header.get("env") or {}
    ways = env.get("ways") or [env]
    names = sorted({str(_name_of(way)) for way in ways})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    count = f"{cassette.num_envs} \N{MULTIPLICATION SIGN} " if cassette.is_vector else ""
    return f"{count}{', '.join(names[:3])}{more}"


def _name_of(way: dict[str, Any]) -> Any:
    return (way.get("kwargs") or {}).get("gem_id") or way.get("id") or way.get("is")


def _about(cassette: Cassette) -> str:
    versions = cassette.header.get("versions") or {}
    parts = [str(cassette.header.get("created")), *(f"{k} {v}" for k, v in versions.items())]
    return " \N{MIDDLE DOT} ".join(parts)


def _overview(episodes: list[_Episode], vector: bool) -> str:
    head = f"<tr>{'<th>environment' if vector else ''}<th>episode<th>seed<th>steps<th>return<th>end"
    rows = []
    for each in episodes:
        env = f"<td>{each.env}" if vector else ""
        link = f'<td><a href="#{each.name}">{each.number}</a>'
        seed = "" if each.began.seed is None else each.began.seed
        cells = f"<td>{_text(seed)}<td>{len(each.steps)}<td>{each.total:+.3f}<td>{_text(each.end)}"
        rows.append(f"<tr>{env}{link}{cells}")
    return f"<table>{head}{''.join(rows)}</table>"


def _section(episode: _Episode, vector: bool) -> str:
    where = f"environment {episode.env}, " if vector else ""
    seed = "" if episode.began.seed is None else f", seed {episode.began.seed}"
    title = f"{where}episode {episode.number}{seed}"
    facts = f"{len(episode.steps)} steps, return {episode.total:+.3f}, {episode.end}"
    return "\n".join(
        [
            f'<section id="{episode.name}"><h2>{_text(title)}</h2>',
            f"<p class=dim>{_text(facts)}</p>{_bars(episode.steps)}",
            f"<div>{_given(episode.began)}</div>",
            *(_step(number, step) for number, step in enumerate(episode.steps, start=1)),
            "</section>",
        ]
    )


def _step(number: int, step: Event) -> str:
    reward = _number(step.reward)
    kind = "up" if reward > 0 else "down" if reward < 0 else "dim"
    end = " terminated" if step.terminated else " truncated" if step.truncated else ""
    head = f"<b>step {number}</b> <span class={kind}>reward {_text(step.reward)}</span>"
    time = (
        ""
        if step.took_s is None
        else f" <span class=dim>\N{MIDDLE DOT} {_number(step.took_s) * 1000:.1f} ms</span>"
    )
    action = f"<pre class=action>{_text(step.action)}</pre>"
    return f"<div>{head}{time}{_text(end)}{action}{_given(step)}</div>"


def _given(event: Event) -> str:
    fault = ""
    if event.fault is not None:
        fault = f"<p class=fault>{_text(event.fault)} {_text(event.message or '')}</p>"
    board = "" if event.obs is None else f"<pre>{_text(event.obs)}</pre>"
    info = ""
    if event.info:
        info = f"<details><summary>info</summary><pre>{_text(event.info)}</pre></details>"
    return f"{fault}{board}{info}"


def _bars(steps: list[Event]) -> str:
    """Draw the rewards of an episode."""
    rewards = [_number(step.reward) for step in steps]
    most = max((abs(reward) for reward in rewards), default=0.0)
    if len(rewards) < _FEW or most == 0.0 or not math.isfinite(most):
        return ""
    parts = []
    for index, reward in enumerate(rewards):
        tall = abs(reward) / most * _TALL if reward == reward else 0.0
        top = _TALL - tall if reward > 0 else _TALL
        colour = "var(--up)" if reward > 0 else "var(--down)"
        parts.append(
            f'<rect x="{index * _BAR}" y="{top:.1f}" width="{_BAR - 1}" height="{tall:.1f}" '
            f'style="fill:{colour}"/>'
        )
    width, height = len(steps) * _BAR, 2 * _TALL
    line = f'<path d="M0 {_TALL}H{width}" style="stroke:var(--line)"/>'
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{min(width, 960)}" height="{height}" '
        f'preserveAspectRatio="none" role="img" aria-label="rewards">{line}{"".join(parts)}</svg>'
    )


def _number(value: Any) -> float:
    """Return a number that was recorded, in whichever way."""
    while isinstance(value, dict):
        value = value.get("$scalar", value.get("$float", 0.0))
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _text(value: Any) -> str:
    if not isinstance(value, str):
        value = (
            json.dumps(value, ensure_ascii=False, indent=2)
            if isinstance(value, (dict, list))
            else str(value)
        )
    return html.escape(value.translate(_SHOWN_BAD))
