"""Requests that would reach the server's own files, and what they reach.

Held elsewhere: bodies without end and slow senders (manners, slow clients), wrong hosts, web pages
and missing tokens (manners), bodies that make no sense (commands), ids that are none (the model),
secrets and line breaks in the log (manners).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.conftest import SANDBOXES, Reply, Server

SECRET = "what only the host knows"


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A file of the host that the server could read and write."""
    path = tmp_path / "secret"
    path.write_text(SECRET)
    yield path
    assert path.read_text() == SECRET
    assert list(tmp_path.iterdir()) == [path]


def upload(server: Server, name: str, target: str, filename: str, content: str) -> Reply:
    parts = [
        f'Content-Disposition: form-data; name="sandbox_id"\r\n\r\n{name}\r\n',
        f'Content-Disposition: form-data; name="target_path"\r\n\r\n{target}\r\n',
        f'Content-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n{content}\r\n',
    ]
    body = "".join(f"--b\r\n{part}" for part in parts) + "--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    return server.request("POST", f"{SANDBOXES}/upload", body, kind)


def climbing(path: Path) -> list[str]:
    """Ways to name a file of the host."""
    return [
        str(path),
        f"../../../../../../../..{path}",
        f"/tmp/../..{path}",
        f"/proc/self/root{path}",
        f"/proc/1/root{path}",
        f"file://{path}",
        f"{path}\0.txt",
    ]


def test_paths_lead_to_places_inside(server: Server, shared: str, secret: Path) -> None:
    """However they climb, and to read and to write."""
    for path in climbing(secret):
        read = server.post("read_file", sandbox_id=shared, path=path)
        assert read.kind in ("file_error", "invalid_request"), (path, read.raw)
    for path in climbing(secret):  # where such a path may be made, it is made inside
        server.post("write_file", sandbox_id=shared, path=path, content="changed")
        assert upload(server, shared, path.replace("\0", "%00"), "a", "changed").status == 200


def test_names_of_uploads_do_not_climb(server: Server, shared: str, secret: Path) -> None:
    """What a form calls its file is a name below the folder that it goes to."""
    server.post("execute", sandbox_id=shared, command="mkdir -p /tmp/forms/in")
    for filename in (
        "../up",
        "../../etc/up",
        "/tmp/forms/up",
        f"..{secret}",
        "..",
        ".",
        "a/../../up",
    ):
        reply = upload(server, shared, "/tmp/forms/in/", filename, "x")
        if reply.body["status"] == "Success":
            assert reply.result["file_name"].startswith("/tmp/forms/in/")
            assert ".." not in reply.result["file_name"].split("/")
    found = server.post("execute", sandbox_id=shared, command="ls -A /tmp/forms").result["stdout"]
    assert found == "in\n"


def test_links_inside_lead_to_nothing_outside(server: Server, shared: str, secret: Path) -> None:
    """Neither when a file is read or written, nor in an archive of a folder."""
    make = (
        f"mkdir -p /tmp/links/d; cd /tmp/links; ln -sf {secret} l; ln -sfn {secret.parent} up; "
        f"ln -sf ../../../..{secret} d/climbs; ln -sf /etc/passwd d/passwd; mkfifo -m 600 d/pipe; "
        "echo kept >d/file; ln -f d/file d/again"
    )
    assert server.post("execute", sandbox_id=shared, command=make).result["exit_code"] == 0
    for path in ("/tmp/links/l", "/tmp/links/up/secret", "/tmp/links/d/climbs"):
        read = server.post("read_file", sandbox_id=shared, path=path)
        assert SECRET.encode() not in read.raw
        fetched = server.get(f"download?sandbox_id={shared}&path={path}")
        assert SECRET.encode() not in fetched.raw
        server.post("write_file", sandbox_id=shared, path=path, content="changed")
    reply = server.get(f"download?sandbox_id={shared}&path=/tmp/links")
    assert SECRET.encode() not in reply.raw
    with tarfile.open(fileobj=io.BytesIO(reply.raw)) as archive:
        for member in archive:
            assert ".." not in member.name.split("/")
            assert not member.name.startswith("/")
            assert not member.ischr(), member
            assert not member.isblk(), member


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/docs/../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        f"{SANDBOXES}/../../../../../etc/passwd",
        "/etc/passwd%00.html",
        "/docs\\..\\..\\etc\\passwd",
    ],
)
def test_urls_name_no_files(server: Server, path: str) -> None:
    reply = server.get(path)
    assert (reply.status, reply.kind) == (404, "not_found")
    assert b"root:" not in reply.raw


@pytest.mark.parametrize("name", ["..%2fx", "%2e%2e", "a%0ab", "a%00b", "x" * 5000, "%ff"])
def test_ids_in_urls_that_are_none(server: Server, name: str) -> None:
    """They stand for nothing, and nothing is made of them."""
    reply = server.request("POST", f"{SANDBOXES}/sandboxes/{name}/restart", None, {})
    assert reply.kind in ("unknown_sandbox", "not_found", "invalid_parameter")
    assert reply.status in (200, 404)
    status = server.get(f"get_status?sandbox_id={name}")
    assert status.kind in ("unknown_sandbox", "invalid_parameter")
