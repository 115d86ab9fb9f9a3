"""Runs the code of a page as its reader would: from top to bottom, in an empty directory.

    python run_blocks.py PAGE

Blocks of Python share one process, so that sandboxes are started once for a page, and see the names
of those above them; a README's do not, as people copy one of them. Blocks of ``bash`` run, too;
those of ``console`` are for commands that somebody has to end, or that need more than a page has:
``test_docs.py`` runs them one by one.
``ROCK_GYM_DOCS_PORT`` stands for port 8080, and ``ROCK_GYM_DOCS_WITHOUT`` names a backend that is
not here: what asks for it is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

_FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """Some code of a page."""

    language: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the code of a page, in order."""
    text = page.read_text()
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in _FENCE.finditer(text)
    ]


def run(page: Path) -> None:
    """Run what can be run."""
    port, missing = os.environ.get("ROCK_GYM_DOCS_PORT"), os.environ.get("ROCK_GYM_DOCS_WITHOUT")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if missing and f'backend="{missing}"' in block.code:
            continue
        code = block.code if port is None else block.code.replace(":8080", f":{port}")
        if block.language == "python":
            # Line numbers of a traceback are those of the page.
            lines = "\n" * (block.line - 1) + code
            alone = page.name == "README.md"
            exec(compile(lines, page, "exec"), {"__name__": "__main__"} if alone else names)
        elif block.language == "bash":
            sys.stdout.flush()
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", code])
            if done.returncode:
                sys.exit(f"{page}, line {block.line}: exit code {done.returncode}")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
