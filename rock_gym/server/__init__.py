"""ROCK's REST API as one more face of the library. Needs the extra ``server``."""

from rock_gym.server.app import create_app
from rock_gym.server.settings import Settings

__all__ = ["Settings", "create_app"]
