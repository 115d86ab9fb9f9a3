"""The peer's end of the pipe: it measures itself when it is asked to. Standard library only."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping


def serve(samplers: Mapping[str, Callable[[int], list[float]]]) -> None:
    """Answer a line ``[name, count]`` by a line ``[seconds, ...]`` until there are no more.

    What the peer prints goes to the standard error. So does what goes wrong, which ends the
    program.
    """
    # From here on, whatever prints cannot be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        name, count = json.loads(line)
        try:
            print(json.dumps(samplers[name](count)), file=answers, flush=True)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
