"""The Docker Engine's API: docker-py for questions and orders, a socket of our own for streams.

docker-py's streams have no deadlines and no firm end, so a stream is attached here. What docker-py
and the HTTP library below it raise is translated here, and goes no further.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from rock_gym.errors import BackendUnavailable, ImageNotFound, RockGymError, StartFailed

DEFAULT_URL = "unix:///var/run/docker.sock"
_MINIMUM_API = (1, 41)
_CONNECT_S = 10.0
_CALL_S = 60.0
_LONGEST_ANSWER_BYTES = 65536


class Engine:
    """A connection to one engine. All methods may be called from any thread.

    Args:
        url: Where it listens; None means ``DOCKER_HOST``, else the usual socket. Contexts of the
            ``docker`` program are not looked at, so that nothing runs elsewhere by surprise.

    Raises:
        BackendUnavailable: If it does not answer or is too old.
    """

    def __init__(self, url: str | None = None) -> None:
        import docker

        self.url = url or os.environ.get("DOCKER_HOST") or DEFAULT_URL
        kind = urlsplit(self.url).scheme
        if kind not in ("unix", "tcp", "http") or os.environ.get("DOCKER_TLS_VERIFY"):
            raise BackendUnavailable(
                f"the engine at {self.url} cannot be used: only unix:// and plain tcp:// can; for "
                "a remote one use ssh -L /tmp/engine.sock:/var/run/docker.sock HOST and "
                "DOCKER_HOST=unix:///tmp/engine.sock"
            )
        with self.translated():
            self.api: Any = docker.APIClient(base_url=self.url, version="auto", timeout=_CALL_S)
        # docker-py keeps connections by URL, so those of most calls would only idle.
        self.api.headers["Connection"] = "close"
        version = tuple(map(int, self.api.api_version.split(".")))
        if version < _MINIMUM_API:
            raise BackendUnavailable(
                f"the engine at {self.url} is too old (API {self.api.api_version}); "
                "install Docker Engine 20.10 or newer"
            )

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """What the engine says of itself, asked once."""
        with self.translated():
            found: dict[str, Any] = self.api.info()
        return found

    @contextlib.contextmanager
    def translated(
        self, image: str | None = None, refused: str = "the engine refused"
    ) -> Iterator[None]:
        """Translate errors of docker-py and below into ours.

        Args:
            image: The image that the request is about.
            refused: What a refusal by the engine is called.

        Raises:
            BackendUnavailable: If the engine does not answer.
            ImageNotFound: If ``image`` is given and is not there.
            StartFailed: If it refuses for another reason.
        """
        import docker.errors
        import requests

        try:
            # docker-py forgets to close a socket that it could not connect.
            self._connect().close()
            yield
        except docker.errors.ImageNotFound as error:
            raise self.no_image(image or "?") from error
        except docker.errors.NotFound as error:
            if image is not None and "image" in str(error.explanation).lower():
                raise self.no_image(image) from error
            raise StartFailed(f"{refused}: {error.explanation}") from error
        except docker.errors.APIError as error:
            raise StartFailed(f"{refused}: {error.explanation}") from error
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise self.unavailable(error) from error

    def no_image(self, image: str) -> ImageNotFound:
        """Return the error for an image that is not there."""
        if image.startswith("rock-gym/gem:"):
            remedy = "build it with: rock-gym image build gem"
        else:
            remedy = f"fetch it with: docker pull {image} (or pass pull='missing'), or build it"
        return ImageNotFound(f"the engine at {self.url} has no image {image!r}; {remedy}")

    def unavailable(self, error: Exception) -> BackendUnavailable:
        """Return the error for an engine that does not answer."""
        text = str(error)
        remedy = "install and start it (apt-get install docker.io), or set DOCKER_HOST"
        if "Permission denied" in text or "PermissionError" in text:
            remedy = "add yourself to the group docker (usermod -aG docker $USER) and log in again"
        return BackendUnavailable(f"no Docker Engine answers at {self.url}: {text}; {remedy}")

    # Containers

    def inspect_image(self, image: str) -> dict[str, Any]:
        """Return what the engine knows of an image.

        Raises:
            ImageNotFound: If it has none of that name.
        """
        with self.translated(image):
            found: dict[str, Any] = self.api.inspect_image(image)
        return found

    def create(self, name: str, config: dict[str, Any]) -> str:
        """Create a container from the API's own description. Returns the engine's id."""
        with self.translated(config["Image"]):
            made: str = self.api.create_container_from_config(config, name)["Id"]
        return made

    def start(self, container: str) -> None:
        """Start a created container."""
        with self.translated():
            self.api.start(container)

    def kill(self, container: str) -> bool:
        """Kill a container, and wait until it has stopped. Fine if it has already.

        Returns:
            Whether it is there, and so its files.

        Raises:
            BackendUnavailable: If the engine does not answer.
            StartFailed: If it refuses.
        """
        import docker.errors

        try:
            with self.translated():
                self.api.kill(container)
        except StartFailed as error:
            cause = error.__cause__
            if not isinstance(cause, docker.errors.APIError) or cause.status_code not in (404, 409):
                raise
            return bool(cause.status_code == 409)
        return True

    def remove(self, container: str) -> str | None:
        """Kill and remove a container, whatever its state. Fine if it is gone already.

        Returns:
            Why it may still be there, or None.
        """
        import docker.errors

        try:
            with self.translated():
                self.api.remove_container(container, v=True, force=True)
        except RockGymError as error:
            cause = error.__cause__
            gone = isinstance(cause, docker.errors.APIError) and cause.status_code in (404, 409)
            return None if gone else error.message
        return None

    def inspect(self, container: str) -> dict[str, Any] | None:
        """Return what the engine knows of a container; None when it has none of that name."""
        import docker.errors

        try:
            with self.translated():
                found: dict[str, Any] = self.api.inspect_container(container)
        except StartFailed as error:
            if isinstance(error.__cause__, docker.errors.NotFound):
                return None
            raise
        return found

    def commands(self, container: str) -> builtins.list[str]:
        """Return the command lines of what runs in a container; none when nothing does."""
        import docker.errors

        try:
            with self.translated():
                found = self.api.top(container, ps_args="-eo pid,args")
        except StartFailed as error:
            if isinstance(error.__cause__, docker.errors.APIError):
                return []
            raise
        return [process[-1] for process in found["Processes"] or ()]

    def written_bytes(self, container: str) -> int:
        """Return the size of what a container has written, which the engine adds up."""
        with self.translated():
            found = self.api.containers(all=True, size=True, filters={"id": container})
        return int(found[0].get("SizeRw") or 0) if found else 0

    def list(self, label: str) -> list[dict[str, Any]]:
        """Return all containers with a label, running or not."""
        with self.translated():
            found: list[dict[str, Any]] = self.api.containers(all=True, filters={"label": label})
        return found

    def ensure_internal_network(self, name: str) -> None:
        """Make a network without a way out, if there is none of that name."""
        import docker.errors

        with self.translated():
            if self.api.networks(names=[f"^{name}$"]):
                return
            try:
                self.api.create_network(name, driver="bridge", internal=True, check_duplicate=True)
            except docker.errors.APIError as error:
                if error.status_code != 409:  # somebody was faster
                    raise

    def statistics(self, container: str) -> dict[str, Any]:
        """Return what a container uses, at once: the engine would wait a second to compare."""
        with self.translated():
            found: dict[str, Any] = self.api.stats(container, stream=False, one_shot=True)
        return found

    def attach(self, container: str) -> tuple[socket.socket, bytes]:
        """Attach to the standard streams of a container, so that it ends when we do.

        Returns:
            The stream, and what has come of it already.
        """
        path = f"/v{self.api.api_version}/containers/{container}/attach"
        try:
            return self._hijack(f"{path}?stream=1&stdin=1&stdout=1&stderr=1")
        except OSError as error:
            raise self.unavailable(error) from error

    def _hijack(self, path: str) -> tuple[socket.socket, bytes]:
        sock = self._connect()
        try:
            sock.settimeout(_CONNECT_S)
            sock.sendall(
                f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n"
                "Upgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
            )
            answer = b""
            while b"\r\n\r\n" not in answer:
                data = sock.recv(4096)
                if not data or len(answer) > _LONGEST_ANSWER_BYTES:
                    break
                answer += data
            head, _, rest = answer.partition(b"\r\n\r\n")
            if b" 101 " not in head.partition(b"\r\n")[0]:
                raise StartFailed(
                    f"the engine refused to attach: {head.decode('latin-1')[:200]!r} "
                    f"{rest.decode('utf-8', 'replace')[:500]}"
                )
            return sock, rest
        except BaseException:
            sock.close()
            raise

    def _connect(self) -> socket.socket:
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(_CONNECT_S)
                sock.connect(parts.path)
            except BaseException:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((parts.hostname or "", parts.port or 2375), _CONNECT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A machine that vanishes without a word must not keep us waiting for ever.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock

    def why_ended(self, container: str, since_s: float, timeout_s: float) -> str:
        """Find out why a container ended, from what the engine remembers. Never raises.

        Args:
            container: The engine's id.
            since_s: When it was started.
            timeout_s: How long to wait for word of its end, which comes after the last output.
        """
        try:
            seen = self._events_until_end(container, since_s, timeout_s)
            if seen:
                return _explain(seen)
            if self.inspect(container) is not None:
                return "its stream was cut, while it may still run"
        except (OSError, RockGymError):
            return "the engine stopped, or no longer answers"
        return "the engine was restarted, or the container was removed"

    def _events_until_end(
        self, container: str, since_s: float, timeout_s: float
    ) -> dict[str, dict[str, Any]]:
        """Return events of a container by name, up to the one that says that it ended."""
        filters = quote(json.dumps({"container": [container], "type": ["container"]}))
        path = f"/v{self.api.api_version}/events?since={since_s:.6f}&filters={filters}"
        deadline = time.monotonic() + timeout_s
        seen: dict[str, dict[str, Any]] = {}
        text = b""
        with self._connect() as sock:
            # Without keep-alive and chunks: the answer is the lines alone.
            sock.sendall(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            while "die" not in seen and (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                try:
                    data = sock.recv(_LONGEST_ANSWER_BYTES)
                except TimeoutError:
                    break
                if not data:
                    break
                text += data
                *lines, text = text.split(b"\n")
                for line in lines:
                    if line.startswith(b"{"):
                        event = json.loads(line)
                        seen[event.get("Action", "")] = event
        return seen if seen.keys() & {"die", "oom", "destroy"} else {}

    def can_limit_disk(self) -> bool:
        """Whether the storage driver holds ``StorageOpt.size``, tried by asking for it."""
        import docker.errors

        driver = self.info.get("Driver")
        if driver in ("btrfs", "zfs", "devicemapper"):
            return True
        backing = dict(self.info.get("DriverStatus") or []).get("Backing Filesystem")
        if driver != "overlay2" or backing != "xfs":
            return False
        images = self.api.images(quiet=True)
        if not images:
            return False
        config = {"Image": images[0], "Cmd": ["true"], "HostConfig": {"StorageOpt": {"size": "1G"}}}
        try:
            made = self.api.create_container_from_config(config)["Id"]
        except docker.errors.APIError:
            return False
        self.remove(made)
        return True

    def close(self) -> None:
        """Close what is left open."""
        self.api.close()


def _explain(seen: dict[str, dict[str, Any]]) -> str:
    if "oom" in seen and "die" in seen:
        return "it ran out of memory; raise memory="
    code = seen.get("die", {}).get("Actor", {}).get("Attributes", {}).get("exitCode")
    if "kill" in seen:
        return f"it was killed from outside (code {code})"
    if code is not None:
        return f"its first process ended with code {code}"
    return "it was removed from outside"
