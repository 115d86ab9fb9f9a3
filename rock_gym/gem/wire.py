"""What host and guest say to each other: typed messages in frames over a stream socket.

A frame is four bytes of length, big endian, and one message in MessagePack. Both ends use this
file; the guest has a copy, so it leans on the standard library and msgspec alone. What comes from
a guest is not to be trusted: sizes are limited, types are checked, and nothing in a message is
ever the name of something to import.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar

import msgspec

from .plain import MAX_DEPTH, plain

MAX_FRAME_BYTES = 16 << 20
MAX_INFO_BYTES = 4 << 20

_HEADER_BYTES = 4
_CHUNK_BYTES = 65536
_MAX_DEPTH = 2 * MAX_DEPTH

FaultKind = Literal["unavailable", "unknown_id", "env_error", "bad_request", "too_large"]

T = TypeVar("T")


class WireError(Exception):
    """Raised when a frame is too large, or is not a valid message."""


# On the control socket, host to guest


class Fork(msgspec.Struct, tag=True, frozen=True):
    """Fork a process for one environment; its socket comes along with this frame.

    Attributes:
        gem_id: The environment it is for, or "".
        preload: Whether to import that environment's module before forking, once for all.
    """

    gem_id: str
    preload: bool


class Ping(msgspec.Struct, tag=True, frozen=True):
    """Ask for a Pong."""


# On the control socket, guest to host


class Ready(msgspec.Struct, tag=True, frozen=True):
    """GEM is imported, and forks are taken."""

    python: str


class Refused(msgspec.Struct, tag=True, frozen=True):
    """The guest cannot work; it ends."""

    message: str
    traceback: str


class Pong(msgspec.Struct, tag=True, frozen=True):
    """The answer to a Ping."""


# On an environment's own socket, host to environment


class Make(msgspec.Struct, tag=True, frozen=True):
    """Make the environment. Answered only if that fails.

    Attributes:
        gem_id: The id it is registered by with GEM.
        kwargs: What ``gem.make`` is given.
        imports: Modules to import first, because they register environments.
        python_path: Directories to find them in.
        dataset: The path of a JSON or Parquet file with rows, or None.
    """

    gem_id: str
    kwargs: dict[str, Any]
    imports: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()
    dataset: str | None = None


class Reset(msgspec.Struct, tag=True, frozen=True):
    """Begin an episode."""

    seed: int


class Step(msgspec.Struct, tag=True, frozen=True):
    """Take a turn."""

    action: str


class Close(msgspec.Struct, tag=True, frozen=True):
    """End the process, as an end of file does too."""


# On an environment's own socket, environment to host


class Hello(msgspec.Struct, tag=True, frozen=True):
    """The process runs. The kernel adds who sent it."""


class Observed(msgspec.Struct, tag=True, frozen=True):
    """The answer to Reset. ``info`` is packed by ``pack_info``."""

    observation: str
    info: msgspec.Raw


class Stepped(msgspec.Struct, tag=True, frozen=True):
    """The answer to Step. ``info`` is packed by ``pack_info``."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: msgspec.Raw


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The answer when something went wrong.

    Attributes:
        kind: What went wrong.
        message: The same in words.
        traceback: Where, inside.
        fatal: Whether there is no environment, so that the process is of no use.
    """

    kind: FaultKind
    message: str
    traceback: str = ""
    fatal: bool = False


ControlRequest = Fork | Ping
ControlReply = Ready | Refused | Pong
EnvRequest = Make | Reset | Step | Close
EnvReply = Hello | Observed | Stepped | Failed

_encoder = msgspec.msgpack.Encoder()


def _refuse_extension(code: int, data: memoryview) -> Any:
    raise ValueError(f"extension type {code}")


CONTROL_REQUESTS = msgspec.msgpack.Decoder(ControlRequest)
CONTROL_REPLIES = msgspec.msgpack.Decoder(ControlReply)
ENV_REQUESTS = msgspec.msgpack.Decoder(EnvRequest)
ENV_REPLIES = msgspec.msgpack.Decoder(EnvReply)
_info_decoder = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_refuse_extension)


def encode(message: msgspec.Struct) -> bytearray:
    """Return a message as one frame. Lone surrogates, which UTF-8 has not, become U+FFFD.

    Raises:
        WireError: If it is larger than a frame may be, or has values that cannot be sent.
    """
    frame = bytearray(_HEADER_BYTES)
    try:
        try:
            _encoder.encode_into(message, frame, _HEADER_BYTES)
        except UnicodeEncodeError:
            _encoder.encode_into(_without_surrogates(message), frame, _HEADER_BYTES)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise WireError(f"a {type(message).__name__} cannot be sent: {error}") from None
    size = len(frame) - _HEADER_BYTES
    if size > MAX_FRAME_BYTES:
        raise WireError(f"a message of {size} bytes is above the limit of {MAX_FRAME_BYTES}")
    frame[:_HEADER_BYTES] = size.to_bytes(_HEADER_BYTES, "big")
    return frame


def _without_surrogates(message: msgspec.Struct) -> msgspec.Struct:
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    for name, value in fields.items():
        if not isinstance(value, msgspec.Raw):
            fields[name] = plain(value)
    return type(message)(**fields)


def decode(decoder: msgspec.msgpack.Decoder[T], data: bytes | memoryview) -> T:
    """Return the message in a frame's body.

    Raises:
        WireError: If it is none that ``decoder`` takes.
    """
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise WireError(f"not a valid message: {str(error)[:2000]}") from None


class Channel(Generic[T]):
    """One end of a stream socket, for one thread at a time.

    Args:
        sock: The connected socket. The channel owns it.
        decoder: For what comes in.
    """

    def __init__(self, sock: socket.socket, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._sock = sock
        self._decoder = decoder
        self._buffer = bytearray()
        self._timeout: float | None = None
        sock.settimeout(None)

    def fileno(self) -> int:
        """The socket's descriptor, to poll; -1 once closed."""
        return self._sock.fileno()

    def send(self, message: msgspec.Struct, timeout_s: float | None = None) -> None:
        """Send one message.

        Raises:
            WireError: If it is too large.
            TimeoutError: If the other end does not read in time.
            OSError: If the other end is gone.
        """
        self._send_frame(encode(message), timeout_s)

    def _send_frame(self, frame: bytearray, timeout_s: float | None) -> None:
        if self._timeout != timeout_s:
            self._set_timeout(timeout_s)
        sent = self._sock.send(frame)
        if sent < len(frame):
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            rest = memoryview(frame)[sent:]
            while rest:
                self._set_timeout(_left(deadline))
                rest = rest[self._sock.send(rest) :]

    def receive(self, timeout_s: float | None = None) -> T:
        """Wait for one message. What has come of it when the time is up is kept for next time.

        Args:
            timeout_s: Seconds to wait; 0 to take only what is there; None for ever.

        Raises:
            TimeoutError: If there is none in time.
            EOFError: If the other end is gone.
            WireError: If what came is no message.
        """
        if self._buffer:
            return self._receive_rest(timeout_s)
        data = self._read(timeout_s)
        size = len(data) - _HEADER_BYTES
        if size >= 0 and size == int.from_bytes(data[:_HEADER_BYTES], "big"):
            return decode(self._decoder, memoryview(data)[_HEADER_BYTES:])
        self._buffer += data
        return self._receive_rest(timeout_s)

    def _receive_rest(self, timeout_s: float | None) -> T:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            body = self._take_frame()
            if body is not None:
                return decode(self._decoder, body)
            self._buffer += self._read(_left(deadline))

    def _take_frame(self) -> bytes | None:
        if len(self._buffer) < _HEADER_BYTES:
            return None
        end = _HEADER_BYTES + int.from_bytes(self._buffer[:_HEADER_BYTES], "big")
        if end - _HEADER_BYTES > MAX_FRAME_BYTES:
            raise WireError(f"a frame of {end - _HEADER_BYTES} bytes was announced")
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEADER_BYTES:end])
        del self._buffer[:end]
        return body

    def _read(self, timeout_s: float | None) -> bytes:
        """Read what is there, or wait for it. Overridden where more than bytes comes along."""
        if self._timeout != timeout_s:
            self._set_timeout(timeout_s)
        try:
            data = self._sock.recv(_CHUNK_BYTES)
        except BlockingIOError:
            raise TimeoutError from None
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError("the other end is gone")
        return data

    def _set_timeout(self, timeout_s: float | None) -> None:
        # Each setting is a system call, and most calls come with the same limit as the last.
        self._sock.settimeout(timeout_s)
        self._timeout = timeout_s

    def close(self) -> None:
        """Close the socket. Twice is fine."""
        self._sock.close()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


# Info


def pack_info(info: object) -> msgspec.Raw:
    """Return an info as it is sent, whatever is in it.

    Raises:
        WireError: If it is larger than an info may be.
    """
    packed = None
    if type(info) is dict and all(_is_scalar(k, v) for k, v in info.items()):
        with contextlib.suppress(UnicodeEncodeError, OverflowError):
            packed = _encoder.encode(info)
    if packed is None:
        value = plain({} if info is None else info if isinstance(info, Mapping) else {"info": info})
        packed = _encoder.encode(value if isinstance(value, dict) else {"info": value})
    if len(packed) > MAX_INFO_BYTES:
        raise WireError(f"an info of {len(packed)} bytes is above the limit of {MAX_INFO_BYTES}")
    return msgspec.Raw(packed)


def unpack_info(packed: msgspec.Raw) -> dict[str, Any]:
    """Return an info as plain values: what JSON has, with NaN and infinities.

    Raises:
        WireError: If it is too large, or holds anything else.
    """
    data = memoryview(packed)
    if len(data) > MAX_INFO_BYTES:
        raise WireError(f"an info of {len(data)} bytes is above the limit of {MAX_INFO_BYTES}")
    info = decode(_info_decoder, data)
    for value in info.values():
        if type(value) not in _SCALARS:
            _check_plain(value, _MAX_DEPTH)
    return info


_SCALARS = frozenset({str, int, float, bool, type(None)})


def _is_scalar(key: object, value: object) -> bool:
    return type(key) is str and type(value) in _SCALARS


def _check_plain(value: object, depth: int) -> None:
    if type(value) in _SCALARS:
        return
    if depth > 0 and isinstance(value, list):
        for item in value:
            _check_plain(item, depth - 1)
    elif depth > 0 and isinstance(value, dict) and all(type(key) is str for key in value):
        for item in value.values():
            _check_plain(item, depth - 1)
    else:
        raise WireError(f"an info holds a {type(value).__name__}, or is too deep")
