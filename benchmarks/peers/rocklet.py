"""ROCK's server for one sandbox, as it ships, here without one. Ends by SIGTERM.

python -m benchmarks.peers.rocklet DESCRIPTOR

It serves on a socket that it inherits, so that nobody has to guess a port or when it listens.
"""

from __future__ import annotations

import os
import socket
import sys

import uvicorn


def main() -> None:
    """Serve."""
    os.environ["ROCK_LOGGING_LEVEL"] = "ERROR"
    from rock.rocklet.server import app

    config = uvicorn.Config(app, access_log=False, log_level="error")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
