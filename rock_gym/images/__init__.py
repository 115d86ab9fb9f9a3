"""Images of embedded sandboxes: a store of layers under the user's data directory."""

from rock_gym.images.store import Image, Store

__all__ = ["Image", "Store"]
