"""Files over HTTP."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.contract.support import eventually
from tests.server.conftest import SANDBOXES, Server


def upload(server: Server, folder: Path, *fields: str) -> dict[str, object]:
    words = [word for each in fields for word in ("-F", each)]
    done = subprocess.run(
        ["curl", "-sS", *words, f"http://127.0.0.1:{server.port}{SANDBOXES}/upload"],
        cwd=folder,
        capture_output=True,
        check=True,
        timeout=60,
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_an_upload_and_a_download_are_exact(server: Server, shared: str, folder: Path) -> None:
    """Bytes that are no text, in more pieces than one."""
    data = bytes(range(256)) * 8192
    (folder / "data.bin").write_bytes(data)
    answer = upload(
        server, folder, f"sandbox_id={shared}", "target_path=/tmp/up/x.bin", "file=@data.bin"
    )
    assert answer["result"] == {
        "success": True,
        "message": "/tmp/up/x.bin was uploaded",
        "file_name": "/tmp/up/x.bin",
    }
    fetched = server.get(f"download?sandbox_id={shared}&path=/tmp/up/x.bin")
    assert (fetched.status, fetched.headers["content-type"]) == (200, "application/octet-stream")
    assert fetched.raw == data
    assert server.post("read_file", sandbox_id=shared, path="/tmp/up/x.bin").kind == "file_error"


def test_an_upload_into_a_folder_keeps_its_name(server: Server, shared: str, folder: Path) -> None:
    (folder / "named.txt").write_text("x")
    for target in ("/tmp/into/", "/tmp/into"):
        form = (f"sandbox_id={shared}", f"target_path={target}", "file=@named.txt")
        assert upload(server, folder, *form)["result"]["file_name"] == "/tmp/into/named.txt"  # type: ignore[index]


def test_forms_that_make_no_sense(server: Server, shared: str, folder: Path) -> None:
    (folder / "a").write_text("x")
    for form in (
        ("file=@a", "target_path=b"),
        (f"sandbox_id={shared}", "target_path=b"),
        (f"sandbox_id={shared}", "file=@a"),
        (f"sandbox_id={shared}", "file=@a", "target_path="),
        (f"sandbox_id={shared}", "file=text", "target_path=b"),
        (f"sandbox_id={shared}", "file=@a", "file=@a", "target_path=b"),
    ):
        answer = upload(server, folder, *form)
        assert (answer["status"], answer["kind"]) == ("Failed", "invalid_parameter"), form
    answer = upload(server, folder, "sandbox_id=never", "file=@a", "target_path=b")
    assert answer["kind"] == "unknown_sandbox"
    broken = server.request(
        "POST", f"{SANDBOXES}/upload", b"--x\r\n", {"Content-Type": "multipart/form-data"}
    )
    assert broken.kind == "invalid_parameter"


def test_what_cannot_be_written(server: Server, shared: str, folder: Path) -> None:
    """Is Failed, in the status and in the result."""
    reply = server.post("write_file", sandbox_id=shared, path="/proc/1/x", content="")
    assert (reply.kind, reply.body["result"]["success"]) == ("file_error", False)
    assert reply.body["result"]["message"] == reply.body["error"]
    (folder / "a").write_text("x")
    form = (f"sandbox_id={shared}", "file=@a", "target_path=/proc/1/x")
    assert upload(server, folder, *form)["kind"] == "file_error"


def test_what_cannot_be_read(server: Server, shared: str) -> None:
    """The content is there all the same: ROCK's client does not look at the status."""
    for path in ("/no/such", "/tmp"):
        reply = server.post("read_file", sandbox_id=shared, path=path)
        assert (reply.kind, reply.body["result"]["content"]) == ("file_error", "")
    assert server.get(f"download?sandbox_id={shared}&path=/no/such").kind == "file_error"


def test_a_folder_comes_as_an_archive(server: Server, shared: str) -> None:
    """More than fits into a pipe, with a name that looks like an option."""
    make = "mkdir -p /tmp/-d/sub; cd /tmp/-d; head -c 3000000 /dev/zero > sub/zeros; ln -s sub link"
    server.post("execute", sandbox_id=shared, command=make, check=True)
    reply = server.get(f"download?sandbox_id={shared}&path=/tmp/-d")
    assert reply.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(reply.raw)) as archive:
        names = sorted(archive.getnames())
        zeros = archive.extractfile("./sub/zeros")
        assert zeros is not None
        assert zeros.read() == bytes(3_000_000)
    assert names == [".", "./link", "./sub", "./sub/zeros"]


def test_encodings(server: Server, shared: str) -> None:
    server.post("execute", sandbox_id=shared, command=r"printf 'caf\351\r\n' > /tmp/latin")
    server.post("execute", sandbox_id=shared, command="printf '+2AA-' > /tmp/utf7")

    def read(path: str, **more: str) -> str:
        text: str = server.post("read_file", sandbox_id=shared, path=path, **more).result["content"]
        return text

    assert read("/tmp/latin", encoding="latin-1") == "café\r\n"
    assert read("/tmp/latin", errors="replace") == "caf\ufffd\r\n"
    for path, more, kind in (
        ("/tmp/latin", {}, "file_error"),
        ("/tmp/utf7", {"encoding": "utf-7"}, "file_error"),  # half a character
        ("/tmp/latin", {"encoding": "zlib"}, "invalid_request"),
        ("/tmp/latin", {"encoding": "no-such"}, "invalid_request"),
        ("/tmp/latin", {"encoding": "a\0b"}, "invalid_parameter"),
        ("/tmp/latin", {"errors": "surrogateescape"}, "invalid_parameter"),
        ("/tmp/a\0b", {}, "invalid_request"),
    ):
        assert server.post("read_file", sandbox_id=shared, path=path, **more).kind == kind, more


def test_a_download_that_nobody_takes(server: Server) -> None:
    """Ends what makes it, and leaves the sandbox as it was."""
    name = server.start()
    make = "mkdir -p /tmp/endless; for i in $(seq 200); do truncate -s 1G /tmp/endless/$i; done"
    server.post("execute", sandbox_id=name, command=make, check=True)
    path = f"{SANDBOXES}/download?sandbox_id={name}&path=/tmp/endless"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")
    is_over = "! cat /proc/[0-9]*/comm | grep -qx tar"
    assert eventually(
        lambda: server.post("execute", sandbox_id=name, command=is_over).result["exit_code"] == 0
    )
    server.post("delete", sandbox_id=name)


@pytest.mark.parametrize("path", ["/tmp/a b&c=ä", "/tmp/-n", "/tmp/$(id)"])
def test_names_of_files_are_taken_as_they_are(server: Server, shared: str, path: str) -> None:
    assert server.post("write_file", sandbox_id=shared, path=path, content="x").result["success"]
    assert server.post("read_file", sandbox_id=shared, path=path).result["content"] == "x"
