"""A module imports only from lower layers, and the host imports nothing heavy."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rock_gym"

# Lower first. Parts of one tier know nothing of each other; within a part anything goes but cycles.
TIERS = (
    ("_version", "errors", "memory", "hands"),
    ("spec", "images", "limits"),
    ("backends",),
    ("output", "status"),
    ("shell",),
    ("life", "idle", "transfer"),
    ("streaming", "terminal"),
    ("session",),
    ("commands", "files"),
    ("sandbox",),
    ("stock",),
    ("fanout",),
    ("pool", "gem", "console"),
    ("default_pools", "doctor"),
    ("envs", "cli_errors", "cli_output", "cli_completion"),
    ("wrappers", "measure", "cli_keepers", "cli_options"),
    ("episodes",),
    ("cli_live",),
    (
        "cli_bench",
        "cli_build",
        "cli_doctor",
        "cli_envs",
        "cli_exec",
        "cli_image",
        "cli_ps",
        "cli_replay",
        "cli_run",
    ),
    ("registration", "server"),
    ("adapters",),
    ("cli_serve",),
    ("cli",),
    ("__init__", "__main__"),
)
RANK = {part: rank for rank, tier in enumerate(TIERS) for part in tier}

# What is started or copied alone, without the package around it, and so may lean on little.
LAUNCHER = PACKAGE / "backends" / "launcher"
GUEST = PACKAGE / "gem" / "guest.py"
GUEST_MAY_IMPORT = {"msgspec", "gem"}
HEAVY = ("gem", "docker", "ray", "starlette", "PIL", "rich", "pandas", "datasets", "click")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, by its full name, also inside functions."""
    package = ("rock_gym", *path.relative_to(PACKAGE).parent.parts)
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = f"{base}.{node.module}" if base and node.module else node.module or base
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)


def our_imports(path: Path) -> Iterator[str]:
    """Of these, our own modules, without the package's name in front."""
    for name in imports(path):
        inner = name.removeprefix("rock_gym.")
        target = PACKAGE.joinpath(*inner.split("."))
        if name == "rock_gym":
            continue  # the names that follow in "from rock_gym import ..." are listed too
        if inner != name and (target.with_suffix(".py").exists() or target.is_dir()):
            yield inner


def part(module: str) -> str:
    return module.split(".")[0]


def test_there_is_something_to_check() -> None:
    """An empty list would pass everything below."""
    assert len(modules()) > 5
    assert any(list(our_imports(path)) for path in modules())


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down(path: Path) -> None:
    own = part(name_of(path))
    assert own in RANK, f"give {own} a layer in {Path(__file__).name}"
    for module in our_imports(path):
        below = part(module)
        assert below == own or RANK[below] < RANK[own], f"{name_of(path)} imports {module}"


def test_there_is_no_cycle() -> None:
    """Within a part too: the library can be read from bottom to top."""
    # A package's own __init__ may gather its parts; what matters is that they do not need it.
    graph = {
        name_of(path): {
            m for m in our_imports(path) if not (PACKAGE / m.replace(".", "/")).is_dir()
        }
        for path in modules()
        if path.name != "__init__.py"
    }
    seen: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module not in seen:
            for target in graph.get(module, ()):
                visit(target, (*trail, module))
            seen.add(module)

    for module in graph:
        visit(module, ())


def copied_inside() -> list[Path]:
    """The guest, and the siblings that it needs, directly or not."""
    found: list[Path] = []
    waiting = [GUEST]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.append(path)
            waiting += [
                PACKAGE / f"{module.replace('.', '/')}.py"
                for module in our_imports(path)
                if (PACKAGE / f"{module.replace('.', '/')}.py").exists()
            ]
    return sorted(found)


@pytest.mark.parametrize("path", sorted(LAUNCHER.glob("*.py")), ids=lambda path: path.stem)
def test_the_launcher_leans_on_the_standard_library(path: Path) -> None:
    """And on the files that lie beside it."""
    beside = {file.stem for file in LAUNCHER.glob("*.py")}
    roots = {name.split(".")[0] for name in imports(path)}
    assert roots - sys.stdlib_module_names - beside == set()


def test_the_guest_needs_only_what_lies_beside_it() -> None:
    """So that it can be copied into a sandbox whose interpreter knows nothing of this package."""
    assert {path.parent for path in copied_inside()} == {GUEST.parent}
    assert "wire" in {path.stem for path in copied_inside()}


@pytest.mark.parametrize("path", copied_inside(), ids=lambda path: path.stem)
def test_what_runs_inside_leans_on_little(path: Path) -> None:
    """The standard library, and what the interpreter inside is sure to have."""
    roots = {name.split(".")[0] for name in imports(path)} - {"rock_gym"}
    assert roots - sys.stdlib_module_names - GUEST_MAY_IMPORT == set()


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_the_guest_imports_gem(path: Path) -> None:
    """It costs a second and 100 MB, and reseeds and reconfigures whatever imports it."""
    # The adapter is for code that has imported it already.
    if path.relative_to(PACKAGE).as_posix() not in ("gem/guest.py", "adapters/gem.py"):
        assert not [name for name in imports(path) if name.split(".")[0] == "gem"]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_the_core_knows_nothing_of_the_server(path: Path) -> None:
    """Deleting server/ changes no line elsewhere, but for the command that starts it."""
    if part(name_of(path)) not in ("server", "cli_serve"):
        assert not [name for name in imports(path) if name.startswith("rock_gym.server")]


def test_importing_the_library_imports_nothing_heavy() -> None:
    """Neither does making an environment, which starts nothing."""
    code = (
        "import json, sys, rock_gym\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
