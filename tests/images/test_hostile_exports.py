"""What a sandbox may have left in a layer, and what an archive can say of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rock_gym.errors import ImageError
from rock_gym.images import Store
from rock_gym.images.archive import import_image
from rock_gym.images.export import export_image
from rock_gym.images.trees import MAX_DEPTH
from tests.images.archives import write
from tests.images.forge import entry, tar


@pytest.fixture
def layer(store: Store, tmp_path: Path) -> Path:
    """The only layer of ``image``, of which a test makes what a sandbox would."""
    import_image(write(tmp_path / "archive", tar([entry("fine", b"fine\n")])), "image", store)
    (found,) = store.get("image").layers
    return Path(store.layer_path(found))


def refusal(store: Store, target: Path) -> str:
    with pytest.raises(ImageError) as caught:
        export_image("image", target, store)
    assert list(target.parent.glob(".*.part")) == []
    assert not target.exists()
    return str(caught.value)


def again(store: Store, target: Path) -> Path:
    """The layer as it is after an export and an import."""
    export_image("image", target, store)
    store.remove("image")
    import_image(target, "again", store)
    return Path(store.layer_path(store.get("again").layers[-1]))


def test_a_hole_larger_than_any_disk(store: Store, layer: Path, tmp_path: Path) -> None:
    """It would be written out to the last byte."""
    (layer / "hole").touch()
    os.truncate(layer / "hole", 1 << 40)
    assert "hole" in refusal(store, tmp_path / "target")


def test_a_hole_that_can_be_filled(store: Store, layer: Path, tmp_path: Path) -> None:
    with open(layer / "hole", "wb") as file:
        file.truncate(1 << 20)
        file.seek(300_000)
        file.write(b"data")
    content = (layer / "hole").read_bytes()
    assert (again(store, tmp_path / "target") / "hole").read_bytes() == content


def test_a_name_that_would_remove_another_file(store: Store, layer: Path, tmp_path: Path) -> None:
    (layer / ".wh.passwd").touch()
    assert ".wh.passwd" in refusal(store, tmp_path / "target")


def test_the_deepest_tree_that_there_can_be(store: Store, layer: Path, tmp_path: Path) -> None:
    deep = Path(*["d"] * (MAX_DEPTH - 1))
    (layer / deep).mkdir(parents=True)
    (layer / deep / "file").write_text("deep")
    assert (again(store, tmp_path / "target") / deep / "file").read_text() == "deep"


def test_odd_names_and_modes(store: Store, layer: Path, tmp_path: Path) -> None:
    """As a sandbox's root is free to choose."""
    names = ["new\nline", "sp ace", "-rf", "ü", "\udcff", "a" * 255, "*", "\\", "'\"", "..."]
    for name in names:
        (layer / name).write_text(name.encode("utf-8", "surrogateescape").hex())
    (layer / "closed").mkdir()
    (layer / "closed" / "file").write_text("closed")
    (layer / "closed" / "file").chmod(0)
    (layer / "closed").chmod(0)
    os.symlink("\udcfe\n", layer / "link")
    os.mkfifo(layer / "fifo")
    os.link(layer / "fine", layer / "same")
    found = again(store, tmp_path / "target")
    for name in names:
        text = (found / name).read_text()
        assert text == name.encode("utf-8", "surrogateescape").hex(), name
    assert (found / "closed").stat().st_mode & 0o777 == 0
    assert os.readlink(found / "link") == "\udcfe\n"
    assert (found / "same").stat().st_ino == (found / "fine").stat().st_ino
