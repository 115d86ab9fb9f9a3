"""What is asked of each environment of a vector beside playing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import gymnasium as gym

    from rock_gym.envs.vector_slots import Player

__all__ = ["Calls"]


class Calls:
    """Calls and attributes, by gymnasium's names."""

    num_envs: int

    if TYPE_CHECKING:
        _players: tuple[Player, ...]
        _check_open: Callable[[], None]

    @property
    def envs(self) -> list[gym.Env[Any, Any]]:
        """The environments. Look, but let nothing but this vector step or reset them."""
        return [player.env for player in self._players]

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """Each environment's generator."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> tuple[int, ...]:
        """The seed of each environment's generator."""
        return self.get_attr("np_random_seed")

    def render(self) -> tuple[Any, ...]:
        """Return each environment's ``render()``."""
        return self.call("render")

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of each environment, or get its attribute."""
        self._check_open()
        return tuple([result(None) for result in self._begin_call(name, args, kwargs)])

    def _begin_call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Callable[[float | None], Any]]:
        return [player.call(name, args, kwargs) for player in self._players]

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Get an attribute of each environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of each environment: one value for all, or a list of one for each.

        Raises:
            ValueError: If the list has another length.
        """
        self._check_open()
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(
                f"{len(values)} values for {self.num_envs} environments: give one for each"
            )
        waiting = [
            player.set_attr(name, value)
            for player, value in zip(self._players, values, strict=True)
        ]
        for result in waiting:
            result(None)
