"""Sandboxes as containers of a Docker Engine.

The first process of a container is ours: a small static program that starts processes, carries
their streams, and reads and writes files, all over the one stream that the engine attaches us to.
So a command costs no exec, and the container ends when the stream does.
"""

from rock_gym.backends.docker.backend import DockerBackend
from rock_gym.backends.docker.images import Credentials

__all__ = ["Credentials", "DockerBackend"]
