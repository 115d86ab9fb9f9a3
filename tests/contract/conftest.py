"""Every test of the contract ends soon: a hang is a defect, not a slow test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract import images, rooms

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests below this directory a shorter limit than the rest."""
    for item in items:
        if HERE in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(60))


@pytest.fixture(scope="module")
def room(request: pytest.FixtureRequest, backend: str) -> Iterator[rooms.Room]:
    """What tests of a module share, with the options that the module asks for."""
    options = getattr(request.module, "HARDEST", {}).get(backend, {})
    with rooms.room(backend=backend, **options) as made:
        yield made


@pytest.fixture
def sandbox(request: pytest.FixtureRequest, backend: str, start: Callable[..., Any]) -> Any:
    """A sandbox in which nobody has been, or which looks like it."""
    if backend == "docker" and request.path.stem in rooms.SHARED:
        return request.getfixturevalue("room").enter()
    return start()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of images that is the tests' own."""
    from rock_gym.images import trees

    path = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROCK_GYM_DATA", str(path))
        yield path
    trees.remove(str(path))


@pytest.fixture(scope="session")
def base(backend: str, data: Path) -> Iterator[str]:
    """The image that tests of images start from, on the backend under test."""
    images.make_base(backend, images.BASE)
    yield images.BASE
    images.remove(backend, images.BASE)
