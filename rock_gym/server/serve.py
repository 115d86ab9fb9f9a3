"""Runs the application by uvicorn, to a graceful end."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from ipaddress import ip_address
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from rock_gym.errors import BackendUnavailable, SpecError
from rock_gym.server.app import create_app
from rock_gym.server.protocol import TimedProtocol
from rock_gym.server.settings import Settings
from rock_gym.server.state import ServerState

_BACKLOG = 4096
_IDLE_CONNECTION_S = 75
_LAST_ANSWERS_S = 10


class _Server(uvicorn.Server):
    """Ends what runs in sandboxes first, so that whoever waits for it gets an answer."""

    def __init__(
        self, config: uvicorn.Config, state: ServerState, on_listening: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._rock = state
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, end all sandboxes, send the last answers."""
        for server in self.servers:
            server.close()
        await self._rock.stop()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; the second time, at once. That is no failure: the exit code is 0."""
        self.force_exit = self.should_exit
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Open the socket that clients connect to.

    Raises:
        BackendUnavailable: If the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise BackendUnavailable(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --port"
        ) from error
    return sock


def serve(settings: Settings, host: str, port: int, on_listening: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, and leave nothing behind.

    Args:
        settings: What the server is told.
        host: Where it listens.
        port: On which port; 0 takes any that is free.
        on_listening: Called with the URL when requests are answered.

    Raises:
        SpecError: If it would listen beyond loopback without a token.
        BackendUnavailable: If it cannot listen there, or another server uses the same state.
    """
    sock = listen(host, port)
    try:
        address = sock.getsockname()
        if settings.token is None and not ip_address(address[0]).is_loopback:
            raise SpecError(
                f"whoever reaches {host} could run commands on this machine: pass --token-file "
                "(make one with: openssl rand -hex 32), or listen on --host 127.0.0.1"
            )
        url = f"http://{f'[{host}]' if ':' in host else host}:{address[1]}"
        app = create_app(settings)
        _raise_descriptor_limit()
        _Server(configuration(app), app.state.rock, lambda: on_listening(url)).run(sockets=[sock])
    finally:
        sock.close()


def configuration(app: ASGIApp) -> uvicorn.Config:
    """Return what uvicorn is told, but for where to listen."""
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_CONNECTION_S,
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
    )


def _raise_descriptor_limit() -> None:
    """Allow as many connections and sandboxes as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
