"""Packets with descriptors, as the owner, the launcher and joined processes exchange them."""

import array
import contextlib
import json
import os
import socket

MAX_FDS = 16
MESSAGE_BYTES = 131072


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Receive a packet and its descriptors; an empty one when the other end is closed."""
    # Not socket.recv_fds: it ignores its flags, and these must not reach what is exec'd here.
    room = socket.CMSG_LEN(MAX_FDS * 4)
    data, ancillary, _, _ = sock.recvmsg(MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    received = array.array("i")
    for _, _, part in ancillary:
        received.frombytes(part)
    return data, list(received)


def send(sock: socket.socket, message: dict) -> None:
    """Send to the owner; one that does not listen any more needs no answer."""
    with contextlib.suppress(OSError):
        sock.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)


def load(data: bytes, fds: list[int]) -> dict:
    """Decode a request. One too long for a packet is in a file, which was passed last."""
    if data == b"+":
        with os.fdopen(fds.pop(), "rb") as file:
            file.seek(0)
            data = file.read()
    request: dict = json.loads(data)
    return request


def pass_file(sock: socket.socket, message: dict, fd: int) -> None:
    """Send a message, with a descriptor unless that is -1."""
    ancillary = []
    if fd >= 0:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd])))
    sock.sendmsg([json.dumps(message).encode()], ancillary)
