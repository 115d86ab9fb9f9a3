"""Every promise of docs/security.md names a test that there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = [
    line.strip("| ").rpartition("|")
    for line in PAGE.partition("## Promises")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| promise")
]


def test_there_are_promises() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize(("promise", "_", "names"), ROWS)
def test_its_test_is_there(promise: str, _: str, names: str) -> None:
    found = re.fullmatch(r" `([\w/.]+)::([\w:]+)`", names)
    assert found is not None, f"{promise!r} names no test: {names!r}"
    path, name = found.groups()
    body: list[ast.stmt] = ast.parse((ROOT / path).read_text()).body
    for part in name.split("::"):
        nodes = [
            n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == part
        ]
        assert len(nodes) == 1, f"{path} has no {name}"
        body = nodes[0].body
