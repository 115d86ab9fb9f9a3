"""What an environment is made with, and what of that its process is told."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rock_gym.errors import SpecError
from rock_gym.gem import catalog, wire

if TYPE_CHECKING:
    from rock_gym.gem.guests import Guest

__all__ = ["EnvConfig"]


@dataclass(frozen=True, slots=True)
class EnvConfig:
    """What an environment is made with.

    Attributes:
        gem_id: The id it is registered by with GEM.
        kwargs: What ``gem.make`` is given; JSON values.
        imports: Modules to import first, in the environment's process.
        python_path: Directories, visible inside, that they are found in.
        dataset: Rows, or the path of a JSON or Parquet file. A file that is here is copied into
            the sandbox; else the path is one inside. Never let a stranger choose it.
        guest_python: The interpreter that GEM runs on; None to choose.
        many: Whether it is one of many that are asked at once, for which it waits its turn.
    """

    gem_id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    imports: Sequence[str] = ()
    python_path: Sequence[str] = ()
    dataset: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None
    guest_python: str | None = None
    many: bool = False

    @property
    def lacks_data(self) -> bool:
        """Whether it needs a data set and has none, so that it cannot be made."""
        record = catalog.find(self.gem_id)
        return record is not None and record.needs == "data set" and self.dataset is None

    def request(self, guest: Guest) -> wire.Make:
        """Return what the environment's process is told, and place its data set in the sandbox.

        Raises:
            SpecError: If there is anything that JSON has not.
            SandboxLost: If the sandbox died.
        """
        made = wire.Make(
            self.gem_id,
            dict(self.kwargs),
            tuple(self.imports),
            tuple(map(os.fspath, self.python_path)),
            self._place_dataset(guest),
            self.many,
        )
        try:
            wire.encode(made)
        except wire.WireError as error:
            raise SpecError(f"{self.gem_id}: arguments must be JSON values: {error}") from None
        return made

    def _place_dataset(self, guest: Guest) -> str | None:
        dataset = self.dataset
        if dataset is None:
            return None
        if isinstance(dataset, (str, os.PathLike)):
            path = os.fspath(dataset)
            return guest.put_file(Path(path).read_bytes()) if os.path.isfile(path) else path
        try:
            content = msgspec.json.encode(list(dataset))
        except (TypeError, ValueError, OverflowError) as error:
            raise SpecError(f"dataset= must be rows of JSON values: {error}") from None
        return guest.put_file(content)
