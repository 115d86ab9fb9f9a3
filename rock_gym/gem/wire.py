"""What host and guest say to each other: typed messages in frames over a stream socket.

A frame is four bytes of length, big endian, and one message in MessagePack. Both ends use this
file; the guest has a copy, so it leans on the standard library and msgspec alone. What comes from
a guest is not to be trusted: sizes are limited, types are checked, and nothing in a message is
ever the name of something to import.
"""

from __future__ import annotations

import functools
import select
import socket
import struct
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

import msgspec

from .plain import MAX_DEPTH, plain

MAX_FRAME_BYTES = 16 << 20
MAX_INFO_BYTES = 4 << 20

_HEADER_BYTES = 4
_SIZE = struct.Struct(">I")
_pack_size, _unpack_size = _SIZE.pack, _SIZE.unpack_from
# Above this a copy costs more than the view that spares it.
_COPIED_BYTES = 8192
CHUNK_BYTES = 65536
_MAX_DEPTH = 2 * MAX_DEPTH

FaultKind = Literal["unavailable", "unknown_id", "env_error", "bad_request", "too_large"]

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


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
        many: Whether the process is one of many that are asked at once.
    """

    gem_id: str
    kwargs: dict[str, Any]
    imports: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()
    dataset: str | None = None
    many: bool = False


class Reset(msgspec.Struct, tag=True, frozen=True):
    """Begin an episode."""

    seed: int


class Step(msgspec.Struct, tag=True, frozen=True):
    """Take a turn."""

    action: str


class Batch(msgspec.Struct, tag=True, frozen=True):
    """Several requests to environments that share a process, each with the number of one.

    They are met in order, and answered in order by one or more Answers.
    """

    items: list[tuple[int, Make | Reset | Step]]


class Close(msgspec.Struct, tag=True, frozen=True):
    """End the process, as an end of file does too."""


# On an environment's own socket, environment to host


class Hello(msgspec.Struct, tag=True, frozen=True):
    """The process runs. The kernel adds who sent it."""


class Observed(msgspec.Struct, tag=True, frozen=True):
    """The answer to Reset. ``info`` is sent as a dict and received as it came: ``unpack_info``."""

    observation: str
    info: msgspec.Raw


class Stepped(msgspec.Struct, tag=True, frozen=True):
    """The answer to Step. ``info`` is as in ``Observed``."""

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


class Answers(msgspec.Struct, tag=True, frozen=True):
    """The next answers to what was asked by Batches.

    A Make has none. If it failed, that is the answer to what is asked after it.
    """

    items: list[Observed | Stepped | Failed]


Answer = Observed | Stepped | Failed
ControlRequest = Fork | Ping
ControlReply = Ready | Refused | Pong
EnvRequest = Make | Reset | Step | Batch | Close
EnvReply = Hello | Observed | Stepped | Failed | Answers

_encoder = msgspec.msgpack.Encoder()


def _refuse_extension(code: int, data: memoryview) -> Any:
    raise ValueError(f"extension type {code}")


CONTROL_REQUESTS = msgspec.msgpack.Decoder(ControlRequest)
CONTROL_REPLIES = msgspec.msgpack.Decoder(ControlReply)
ENV_REQUESTS = msgspec.msgpack.Decoder(EnvRequest)
ENV_REPLIES = msgspec.msgpack.Decoder(EnvReply)
_decode_info = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_refuse_extension).decode


def encode(message: msgspec.Struct) -> bytes:
    """Return a message as one frame. Lone surrogates, which UTF-8 has not, become U+FFFD.

    Raises:
        WireError: If it is larger than a frame may be, or has values that cannot be sent.
    """
    try:
        try:
            body = _encoder.encode(message)
        except (UnicodeEncodeError, OverflowError):
            body = _encoder.encode(_tidied(message))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise WireError(f"a {type(message).__name__} cannot be sent: {error}") from None
    size = len(body)
    if size > MAX_INFO_BYTES:
        _check_size(message, size)
    return _pack_size(size) + body


def encode_answer(answer: msgspec.Struct) -> bytes:
    """Return an answer as one frame: that it is too large, if it is."""
    try:
        return encode(answer)
    except WireError as error:
        return encode(Failed("too_large", str(error)))


def _tidied(message: Any) -> Any:
    # Messages within one stay messages, which are no plain values.
    if isinstance(message, Answers):
        return Answers([_tidied(answer) for answer in message.items])
    if isinstance(message, Batch):
        return Batch([(number, _tidied(request)) for number, request in message.items])
    return type(message)(
        **{name: plain(getattr(message, name)) for name in message.__struct_fields__}
    )


def _check_size(message: msgspec.Struct, size: int) -> None:
    for part in message.items if isinstance(message, Answers) else [message]:
        info = getattr(part, "info", None)
        info_bytes = 0 if info is None else len(_encoder.encode(info))
        if info_bytes > MAX_INFO_BYTES:
            raise WireError(f"an info of {info_bytes} bytes is above the limit of {MAX_INFO_BYTES}")
    if size > MAX_FRAME_BYTES:
        raise WireError(f"a message of {size} bytes is above the limit of {MAX_FRAME_BYTES}")


def decode(decoder: msgspec.msgpack.Decoder[T], data: bytes | memoryview) -> T:
    """Return the message in a frame's body.

    Raises:
        WireError: If it is none that ``decoder`` takes.
    """
    try:
        return decoder.decode(data)
    except _INVALID as error:
        raise _invalid(error) from None


_INVALID = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)


def _invalid(error: Exception) -> WireError:
    return WireError(f"not a valid message: {str(error)[:2000]}")


class Frames(Generic[T]):
    """Takes in bytes as they come, and gives out messages.

    Args:
        decoder: For the messages.
    """

    __slots__ = ("_decoder", "decode", "rest")

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self.decode = decoder.decode
        # Empty unless there are bytes that no message was made of yet.
        self.rest = bytearray()

    def take(self, data: bytes = b"") -> T | None:
        """Add what was read, and return the next message once it is complete, else None.

        Raises:
            WireError: If it is too large, or not a valid message.
        """
        buffer = self.rest
        if not buffer:
            # In the common case one read is one frame.
            size = len(data) - _HEADER_BYTES
            if size >= 0 and _unpack_size(data)[0] == size:
                body = data if size < _COPIED_BYTES else memoryview(data)
                try:
                    return self.decode(body[_HEADER_BYTES:])
                except _INVALID as error:
                    raise _invalid(error) from None
        buffer += data
        if len(buffer) < _HEADER_BYTES:
            return None
        end = _HEADER_BYTES + int.from_bytes(buffer[:_HEADER_BYTES], "big")
        if end - _HEADER_BYTES > MAX_FRAME_BYTES:
            raise WireError(f"a frame of {end - _HEADER_BYTES} bytes was announced")
        if len(buffer) < end:
            return None
        whole = bytes(buffer[_HEADER_BYTES:end])
        del buffer[:end]
        return decode(self._decoder, whole)


class Channel(Generic[T]):
    """The guest's end of a socket: it blocks, as nothing else is to be done.

    Args:
        sock: The connected socket. The channel owns it.
        decoder: For what comes in.
    """

    def __init__(self, sock: socket.socket, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._sock = sock
        self._frames = Frames(decoder)
        sock.settimeout(None)
        # Who waits in recv is woken as well when the host takes what was sent, for nothing.
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        self._wait = poll.poll
        self._read: Callable[[], bytes] = functools.partial(sock.recv, CHUNK_BYTES)

    def send(self, message: msgspec.Struct) -> None:
        """Send one message.

        Raises:
            WireError: If it is too large; nothing was sent.
            OSError: If the host is gone.
        """
        self._sock.sendall(encode(message))

    def send_answer(self, answer: msgspec.Struct) -> None:
        """Send an answer, or that it is too large."""
        self._sock.sendall(encode_answer(answer))

    def receive(self) -> T:
        """Wait for one message.

        Raises:
            EOFError: If the host is gone.
        """
        frames = self._frames
        message = frames.take() if frames.rest else None
        while message is None:
            self._wait()
            data = self._read()
            if not data:
                raise EOFError
            message = frames.take(data)
        return message

    def meet(self, kind: type[S], answer: Callable[[S], msgspec.Struct]) -> T:
        """Answer requests of one kind, and return the first of another; raises as ``receive``.

        Does what ``receive``, ``answer`` and ``send`` do, but in one place: one process of many
        finds its code and data cold in the caches each time, so that less of both is quicker.
        """
        frames, wait, read, decode = self._frames, self._wait, self._read, self._frames.decode
        send = self._sock.sendall
        while True:
            message: Any = None
            if not frames.rest:
                wait()
                data = read()
                size = len(data) - _HEADER_BYTES
                if 0 <= size < _COPIED_BYTES and _unpack_size(data)[0] == size:
                    message = decode(data[_HEADER_BYTES:])
                elif data:
                    message = frames.take(data)
                else:
                    raise EOFError
            if message is None:
                message = self.receive()
            if type(message) is not kind:
                return message  # type: ignore[no-any-return]
            send(encode_answer(answer(message)))

    def close(self) -> None:
        """Close the socket. Twice is fine."""
        self._sock.close()


# Info


def tidy_info(info: object) -> Any:
    """Return an info as a dict that can be sent in the place of a Raw, whatever is in it."""
    if type(info) is dict:
        for key, value in info.items():
            if type(value) not in _SCALARS or type(key) is not str:
                break
        else:
            return info
    value = plain({} if info is None else info)
    return value if isinstance(value, dict) else {"info": value}


def unpack_info(packed: msgspec.Raw) -> dict[str, Any]:
    """Return an info as plain values: what JSON has, with NaN and infinities.

    Raises:
        WireError: If it is too large, or holds anything else.
    """
    data = memoryview(packed)
    if len(data) > MAX_INFO_BYTES:
        raise WireError(f"an info of {len(data)} bytes is above the limit of {MAX_INFO_BYTES}")
    try:
        info = _decode_info(data)
    except _INVALID as error:
        raise _invalid(error) from None
    for value in info.values():
        if type(value) not in _SCALARS:
            _check_plain(value, _MAX_DEPTH)
    return info


_SCALARS = frozenset({str, int, float, bool, type(None)})


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
