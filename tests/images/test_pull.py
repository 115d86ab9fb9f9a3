"""Pulling by skopeo, from a registry on this machine."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rock_gym.errors import ImageError, SpecError
from rock_gym.images import Store
from rock_gym.images.pull import pull_image
from tests.images import archives as make
from tests.images.test_archive import BOTTOM, TOP, leftovers

needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Registry(BaseHTTPRequestHandler):
    """The part of a registry's interface that pulling needs, over the files of a layout."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        kind, data = "application/octet-stream", b""
        if len(parts) == 4 and parts[1] == "x" and parts[2] in ("manifests", "blobs"):
            index = json.loads(self.files["index.json"])
            digest = index["manifests"][0]["digest"] if parts[3] == "1" else parts[3]
            data = self.files.get(f"blobs/{digest.replace(':', '/')}", b"")
            kind = MANIFEST if parts[2] == "manifests" else kind
        self.send_response(200 if data or parts == ["v2"] else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    files = make.oci(BOTTOM, TOP, Env=["A=b"])
    index = json.loads(files["index.json"])
    name = f"blobs/{index['manifests'][0]['digest'].replace(':', '/')}"
    manifest = json.loads(files[name])
    # Registries are asked what things are, which layouts need not say.
    manifest["mediaType"] = MANIFEST
    manifest["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json"
    for layer in manifest["layers"]:
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
    data = json.dumps(manifest).encode()
    files[f"blobs/sha256/{make.digest(data)}"] = data
    files["index.json"] = json.dumps({"manifests": [make.describe(data)]}).encode()
    handler = type("Handler", (Registry,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@needs_skopeo
def test_from_a_registry(registry: str, store: Store) -> None:
    image = pull_image(f"{registry}/x:1", store=store, tls_verify=False)
    assert image.name == f"{registry}/x:1"
    assert dict(image.config.env) == {"A": "b"}
    assert sorted(os.listdir(store.layer_path(image.layers[1]))) == [
        *("again", "dir", "gone", "hidden"),
    ]
    assert pull_image(f"docker://{registry}/x:1", "y", store, tls_verify=False).name == "y:latest"


@needs_skopeo
def test_what_the_registry_does_not_have(registry: str, store: Store) -> None:
    """Skopeo's own words are in the error, and nothing is left."""
    with pytest.raises(ImageError, match="cannot be pulled"):
        pull_image(f"{registry}/y:1", store=store, tls_verify=False)
    assert leftovers(store) == []


@needs_skopeo
def test_a_registry_that_cannot_prove_itself(registry: str, store: Store) -> None:
    """It is not asked without TLS, unless that is wanted."""
    with pytest.raises(ImageError, match="cannot be pulled"):
        pull_image(f"docker://{registry}/x:1", "x", store)


@needs_skopeo
def test_an_option_is_no_reference(store: Store) -> None:
    with pytest.raises((ImageError, SpecError)):
        pull_image("--help", "x", store)


def test_without_skopeo(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="apt-get install skopeo"):
        pull_image("debian:12", store=store)
