"""Repositories behind real transports: https with a credential, and a local one that belongs to somebody else."""

from __future__ import annotations

import base64
import functools
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.source.command import GitOptions
from reconciler.source.git import GitSource
from reconciler.source.remote import parse_remote
from reconciler.testing.repositories import UpstreamRepository

pytestmark = pytest.mark.root

_PASSWORD = "hunter2-s3cret"
_WANTED = "Basic " + base64.b64encode(f"ci:{_PASSWORD}".encode()).decode()


class _Server(ThreadingHTTPServer):
    """A repository as plain files over TLS. Every request looks at what other processes could see of git."""

    daemon_threads = True
    seen: bytes = b""

    def look(self) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if b"git" in (process / "comm").read_bytes() and int(process.name) != os.getpid():
                    self.seen += (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.look()
        if self.headers.get("Authorization") != _WANTED:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="specs"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[_Server, UpstreamRepository, Path]]:
    upstream = UpstreamRepository(tmp_path / "upstream")
    certificate, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    server = _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=str(upstream.path)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server, upstream, certificate
    server.shutdown()
    thread.join()
    server.server_close()


def _url(server: _Server, userinfo: str) -> str:
    return f"https://{userinfo}127.0.0.1:{server.server_address[1]}/.git"


def test_g08_a_token_is_used_and_never_visible(
    served: tuple[_Server, UpstreamRepository, Path], tmp_path: Path
) -> None:
    server, upstream, certificate = served
    commit = upstream.commit({"a.yaml": "1"})
    upstream.git("update-server-info")
    root, options = tmp_path / "root", GitOptions(ca_file=certificate)
    remote = parse_remote(_url(server, f"ci:{_PASSWORD}@"))
    source = GitSource(remote, root=root, options=options)
    revision = source.read()
    source.accept(revision)
    assert revision.id == commit
    assert b"git-remote-https" in server.seen or b"remote-https" in server.seen
    assert _PASSWORD.encode() not in server.seen
    assert not any(_PASSWORD.encode() in path.read_bytes() for path in root.rglob("*") if path.is_file())


def test_g08_a_refused_token_is_an_error_that_does_not_show_it(
    served: tuple[_Server, UpstreamRepository, Path], tmp_path: Path
) -> None:
    server, upstream, certificate = served
    upstream.commit({"a.yaml": "1"})
    upstream.git("update-server-info")
    for userinfo in ("ci:wrong-t0ken@", ""):
        source = GitSource(
            parse_remote(_url(server, userinfo)), root=tmp_path / "root", options=GitOptions(ca_file=certificate)
        )
        with pytest.raises(HostError) as caught:
            source.read()
        assert "wrong-t0ken" not in str(caught.value)
        assert "credential" in caught.value.hint


def test_an_unknown_certificate_authority_is_refused(
    served: tuple[_Server, UpstreamRepository, Path], tmp_path: Path
) -> None:
    server, _, _ = served
    with pytest.raises(HostError, match="certificate"):
        GitSource(parse_remote(_url(server, "")), root=tmp_path / "root").read()


def test_g01_a_local_repository_of_another_user_is_read_when_it_was_named(tmp_path: Path) -> None:
    upstream = UpstreamRepository(tmp_path / "upstream")
    commit = upstream.commit({"a.yaml": "1"})
    for path in (upstream.path, *upstream.path.rglob("*")):
        os.chown(path, 65534, 65534)
    for named in (upstream.path, upstream.path / ".git"):
        assert GitSource(parse_remote(str(named), local=True), root=tmp_path / "root").read().id == commit
