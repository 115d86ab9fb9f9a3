"""Writes the table of environments into docs/environments.md, from the catalog and measurements.

``--measure`` plays what can be played here of the ids that hold its WORD and keeps what it took in
docs/speeds.json; without it the table is made anew of what is there. ``--check`` changes nothing
and fails if the table is not what it would write.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym

from rock_gym.envs.spaces import ActionText
from rock_gym.errors import ResetTimeout
from rock_gym.gem.catalog import RECORDS, Record

DOCS = Path(__file__).parents[1] / "docs"
PAGE, SPEEDS = DOCS / "environments.md", DOCS / "speeds.json"
BEGIN, END = "<!-- table: made by scripts/env_table.py -->\n", "<!-- end of the table -->\n"

CATEGORIES = {
    "game": "Games",
    "rg": "reasoning_gym",
    "math": "Mathematics",
    "code": "Programs",
    "logic": "Logic",
    "qa": "Questions",
    "eval": "Evaluation",
}
NEEDS = {
    None: "yes",
    "broken": "no: broken in GEM",
    "data set": "`dataset=`",
    "pandas": "`rock-gym[words]`",
    "words": "`rock-gym[words]`",
}
_MOST_RESETS, _MOST_STEPS, _BUDGET_S = 21, 40, 4.0
_RESET_S = 20.0
_TURNS = """
import json
from gem.envs.registration import ENV_REGISTRY
print(json.dumps({name: spec.kwargs.get("max_turns") for name, spec in ENV_REGISTRY.items()}))
"""


def main() -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", metavar="WORD", help="':' plays all, which takes minutes")
    parser.add_argument("--check", action="store_true", help="change nothing, fail if it is old")
    options = parser.parse_args()
    if options.measure:
        speeds = {**json.loads(SPEEDS.read_text()), **measure_all(options.measure)}
        lines = (f'"{name}": {json.dumps(speeds[name])}' for name in sorted(speeds))
        SPEEDS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    text = PAGE.read_text()
    made = renewed(text, json.loads(SPEEDS.read_text()))
    if options.check and made != text:
        print(f"{PAGE} is not current: run python -m scripts.env_table", file=sys.stderr)
        return 1
    if not options.check:
        PAGE.write_text(made)
    return 0


def renewed(page: str, speeds: dict[str, Any]) -> str:
    """Return the page with its table made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "".join(tables(speeds)) + END + after


def tables(speeds: dict[str, Any]) -> list[str]:
    """Return a table for each category."""
    lines = []
    for category, title in CATEGORIES.items():
        records = [record for record in RECORDS if record.category == category]
        lines += [
            f"\n### {title}\n\n",
            "| `gymnasium.make` | `rock_gym.make` | offline | turns | an action | reset | step |\n",
            "|---|---|---|--:|---|--:|--:|\n",
            *(row(record, speeds.get(record.gem_id, {})) for record in records),
        ]
    return [*lines, "\n"]


def row(record: Record, speed: dict[str, Any]) -> str:
    """Return a line of the table."""
    cells = (
        f"`{record.gym_id}`",
        f"`{record.gem_id}`",
        NEEDS[record.needs],
        str(speed.get("turns", "varies")),
        action(record.gem_id),
        duration(speed.get("reset_ms")),
        duration(speed.get("step_ms")),
    )
    return f"| {' | '.join(cells)} |\n"


def action(gem_id: str) -> str:
    """Return what a move looks like."""
    drawn = ActionText(gem_id, 256, seed=1).sample()
    return "a block of code" if "\n" in drawn else f"`{drawn}`"


def duration(ms: float | None) -> str:
    """Return a duration with two digits that mean something."""
    if ms is None:
        return ""
    return f"{ms:.2g} ms" if ms < 100 else f"{ms / 1000:.2g} s"


def measure_all(word: str) -> dict[str, Any]:
    """Return what each environment takes, and how many turns it has."""
    done = subprocess.run(
        [sys.executable, "-c", _TURNS], capture_output=True, text=True, check=True, timeout=120
    )
    turns: dict[str, int | None] = json.loads(done.stdout)
    found: dict[str, dict[str, float]] = {}
    for record in (record for record in RECORDS if word in record.gem_id):
        # All but the games take one answer. The games whose kind is drawn have no one number.
        count = turns[record.gem_id] if record.category == "game" else 1
        found[record.gem_id] = {} if count is None else {"turns": count}
        if record.needs in (None, "pandas", "words"):
            found[record.gem_id] |= measure(record)
            print(record.gem_id, found[record.gem_id], flush=True)
    return found


def measure(record: Record) -> dict[str, float]:
    """Return the medians of resets and steps, the first reset apart: it makes the environment."""
    resets: list[float] = []
    steps: list[float] = []
    with gym.make(record.gym_id, reset_timeout=_RESET_S) as env:
        game: Any = env.unwrapped
        game.reset(seed=0)
        until = time.monotonic() + _BUDGET_S
        for seed in range(1, _MOST_RESETS):
            begun = time.perf_counter()
            try:
                game.reset(seed=seed)
            except ResetTimeout:  # there are questions that GEM never finds
                resets.append(_RESET_S)
                continue
            resets.append(time.perf_counter() - begun)
            while game.playing and len(steps) < seed * _MOST_STEPS / _MOST_RESETS:
                move = game.sample_random_action()
                begun = time.perf_counter()
                game.step(move)
                steps.append(time.perf_counter() - begun)
            if time.monotonic() > until and steps:
                break
    return {
        "reset_ms": round(1e3 * statistics.median(resets), 3),
        "step_ms": round(1e3 * statistics.median(steps), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
