"""The sandbox API's files: read and written as text, uploaded and downloaded as they are.

Paths are those of the sandbox, and go to it as they came. No body is ever held in memory but those
of JSON, which are limited: an upload goes by a temporary file, a download piece by piece.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import IO, Any, TypeGuard

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope

from rock_gym.errors import FileError, SpecError
from rock_gym.sandbox import Sandbox
from rock_gym.server import messages as m
from rock_gym.server import results as r
from rock_gym.server.entries import SandboxEntry
from rock_gym.server.envelope import (
    TAR,
    Call,
    JsonRoute,
    Stream,
    check_type,
    client_gone,
    rock_result,
    too_large,
)
from rock_gym.server.failures import Failure, Refused
from rock_gym.server.folders import FolderReader
from rock_gym.server.gem_entry import GemEntry
from rock_gym.server.sandbox_routes import PREFIX, usable_of
from rock_gym.server.state import ServerState

_PIECE_BYTES = 256 << 10
_MAX_FIELDS = 8


def routes(state: ServerState) -> list[Route]:
    """Return the routes of files."""
    files = _Files(state)
    return [
        JsonRoute(
            f"{PREFIX}/read_file",
            files.read_file,
            request=m.ReadFileRequest,
            result=r.FileContent,
            title="read file",
            shape=_of_read,
        ),
        JsonRoute(
            f"{PREFIX}/write_file",
            files.write_file,
            request=m.WriteFileRequest,
            result=r.Written,
            title="write file",
            shape=_of_write,
        ),
        JsonRoute(
            f"{PREFIX}/upload",
            files.upload,
            request=m.UploadForm,
            result=r.Uploaded,
            title="upload file",
            shape=_of_write,
            read=files.read_form,
        ),
        JsonRoute(
            f"{PREFIX}/download",
            files.download,
            request=m.DownloadQuery,
            result=bytes,
            method="GET",
            title="download file",
        ),
    ]


def _of_read(failure: Failure) -> dict[str, Any]:
    return {**rock_result(failure), "content": ""}


def _of_write(failure: Failure) -> dict[str, Any]:
    return {**rock_result(failure), "success": False, "message": failure.reason, "file_name": ""}


@dataclass(frozen=True, slots=True)
class _Upload:
    """A form that has arrived."""

    sandbox_id: str
    target: str
    file: UploadFile


class _Files:
    """Handlers that copy files."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def read_file(self, request: m.ReadFileRequest, call: Call) -> r.FileContent:
        """Read a file as text."""
        entry = usable_of(self._state, request.sandbox_id, call)
        limit = self._state.settings.max_read_bytes
        data = await entry.use(_read_all, request.path, limit)
        return r.FileContent(_decode(data, request))

    async def write_file(self, request: m.WriteFileRequest, call: Call) -> r.Written:
        """Write a file. Folders on the way are made, and the file appears whole."""
        entry = usable_of(self._state, request.sandbox_id, call)
        await entry.use(Sandbox.write_file, request.path, request.content)
        return r.Written(success=True, message=f"{request.path} was written")

    async def read_form(self, scope: Scope, receive: Receive, call: Call) -> _Upload:
        """Read a form; its file goes to disk as it comes."""
        check_type(call, b"multipart/form-data")
        limited = _Limited(receive, self._state.settings.max_upload_bytes)
        try:
            form = await Request(scope, limited.receive).form(max_files=1, max_fields=_MAX_FIELDS)
        except ClientDisconnect:
            raise client_gone() from None
        except HTTPException as error:
            raise Refused(f"body: {error.detail}", kind="invalid_parameter") from None
        sandbox_id, target, file = (
            form.get(name) for name in ("sandbox_id", "target_path", "file")
        )
        if isinstance(file, UploadFile) and _is_text(target) and _is_text(sandbox_id):
            return _Upload(sandbox_id, target, file)
        await form.close()
        raise Refused(
            "body: the form needs sandbox_id, target_path and file, such as: "
            "-F sandbox_id=ID -F target_path=a.txt -F file=@a.txt",
            kind="invalid_parameter",
        )

    async def upload(self, request: _Upload, call: Call) -> r.Uploaded:
        """Copy a file into a sandbox."""
        try:
            entry = usable_of(self._state, request.sandbox_id, call)
            name = os.path.basename(request.file.filename or "") or "upload"
            path = await entry.use(_place, request.target, name, request.file.file)
        finally:
            await request.file.close()
        return r.Uploaded(success=True, message=f"{path} was uploaded", file_name=path)

    async def download(self, request: m.DownloadQuery, call: Call) -> Stream:
        """Fetch a file as it is, or a folder as a tar archive."""
        entry = usable_of(self._state, request.sandbox_id, call)
        try:
            file = await entry.use(Sandbox.open_file, request.path)
        except FileError as error:
            if error.reason != "EISDIR":
                raise
            folder = await entry.use(FolderReader.open, request.path)
            return Stream(_pieces(entry, lambda _: folder.read(), folder.close), TAR)
        return Stream(_pieces(entry, lambda it: _read_piece(it, file, request.path), file.close))


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a field of a form is there, and is no file."""
    return isinstance(value, str) and bool(value)


async def _pieces(
    entry: SandboxEntry | GemEntry, read: Callable[[Sandbox], bytes], close: Callable[[], None]
) -> AsyncGenerator[bytes, None]:
    try:
        while piece := await entry.use(read):
            entry.touch()
            yield piece
    finally:
        close()


def _read_piece(sandbox: Sandbox, file: IO[bytes], path: str) -> bytes:
    try:
        return file.read(_PIECE_BYTES)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", path=path, reason="EIO") from error


def _read_all(sandbox: Sandbox, path: str, limit: int) -> bytes:
    """Read a file of so many bytes at most."""
    pieces: list[bytes] = []
    size = 0
    with sandbox.open_file(path) as file:
        while piece := _read_piece(sandbox, file, path):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise FileError(
                    f"{path} is longer than {limit} bytes; fetch it by download, or read a part of "
                    "it with a command",
                    path=path,
                    reason="EFBIG",
                )
    return b"".join(pieces)


def _decode(data: bytes, request: m.ReadFileRequest) -> str:
    encoding = request.encoding or "utf-8"
    try:
        text = data.decode(encoding, request.errors or "strict")
        text.encode()  # some encodings can spell what is no text
    except UnicodeError as error:
        raise FileError(
            f"{request.path} is not {encoding} text ({error}); fetch it by download, or pass "
            "errors='replace'",
            path=request.path,
            reason="not_text",
        ) from None
    except LookupError as error:
        raise SpecError(f"{error}; use an encoding of text, such as utf-8") from None
    return text


def _place(sandbox: Sandbox, target: str, name: str, file: IO[bytes]) -> str:
    """Write an upload to a path, or into the folder of that name; returns where it is."""
    path = target + name if target.endswith("/") else target
    try:
        sandbox.write_file(path, file)
    except FileError as error:
        if error.reason != "EISDIR" or path != target:
            raise
        path = os.path.join(target, name)
        file.seek(0)
        sandbox.write_file(path, file)
    return path


class _Limited:
    """What comes from a client, up to a limit."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._count = 0

    async def receive(self) -> Message:
        """Return the next piece.

        Raises:
            Refused: If that is too much.
        """
        message = await self._receive()
        self._count += len(message.get("body", b""))
        if self._count > self._limit:
            raise too_large(self._limit, "form's", "--max-upload")
        return message
