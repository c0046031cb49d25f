"""HTTPS: trust, identity, and what never goes down to plain HTTP (cases P05, P20, P28)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from reconciler.errors import AuthError, RegistryError
from reconciler.oci.reference import Reference
from reconciler.registry.hosts import Credentials, HostConfig, MirrorEndpoint, TlsConfig
from reconciler.testing.scripted_registry import ScriptedRegistry, Step

from .conftest import MemorySink, layer, manifest, served

DATA = manifest()
HEAD = "HEAD /v2/app/manifests/1"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    chain, key = directory / "chain.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    files = ["-keyout", key, "-out", chain, "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return chain, key


@pytest.fixture
def secure(certificate):
    with ScriptedRegistry(certificate) as server:
        yield server


def trusting(server, certificate, credentials=None) -> dict[str, HostConfig]:
    return {server.host: HostConfig(server.host, tls=TlsConfig(ca=certificate[0]), credentials=credentials)}


def app(server) -> Reference:
    return Reference.parse(f"{server.host}/app:1")


def test_a_declared_authority_is_trusted(harness, secure, certificate):
    secure.on(HEAD, served(DATA))
    assert harness.client(hosts=trusting(secure, certificate)).tag_digest(app(secure)) is not None


def test_p28_an_unknown_authority_is_refused_at_once(harness, secure):
    with pytest.raises(RegistryError, match="TLS failed: self-signed certificate") as caught:
        harness.client().tag_digest(app(secure))
    assert "ca: FILE" in caught.value.hint
    assert secure.asked == []
    assert harness.slept == []


def test_p28_plain_http_is_never_a_fallback(harness, registry):
    with pytest.raises(RegistryError, match="TLS failed") as caught:
        harness.client().tag_digest(app(registry))
    assert "plain_http: true" in caught.value.hint
    assert registry.asked == []


def test_p05_a_token_server_without_encryption_gets_nothing(harness, secure, storage, certificate):
    secure.on(HEAD, Step(401, b"", {"WWW-Authenticate": f'Bearer realm="{storage.url}/token"'}))
    hosts = trusting(secure, certificate, Credentials("ci", "s3cret"))
    with pytest.raises(AuthError, match="without encryption"):
        harness.client(hosts=hosts).tag_digest(app(secure))
    assert storage.asked == []


def test_p20_a_redirect_does_not_leave_encryption(harness, secure, storage, certificate):
    secure.on("GET ", Step(307, b"", {"Location": f"{storage.url}/data"}))
    with pytest.raises(RegistryError, match="from https to plain http"):
        harness.client(hosts=trusting(secure, certificate)).blob(app(secure), layer(b"x"), MemorySink())
    assert storage.asked == []


def test_p20_other_hosts_are_not_shown_the_client_certificate(harness, secure, certificate):
    """Storage that asks every client for a certificate: the registry's own is for the registry alone."""
    chain, key = certificate
    identity = TlsConfig(chain, chain, key)
    with ScriptedRegistry(certificate, client_ca=chain) as storage:
        secure.on("GET ", Step(307, b"", {"Location": f"{storage.url}/data"}, times=2))
        storage.on("GET /data", Step(200, b"x"))
        hosts = {secure.host: HostConfig(secure.host, tls=identity)}
        with pytest.raises(RegistryError, match=r"certificate required|connection broke"):
            harness.client(
                hosts=hosts | {storage.host: HostConfig(storage.host, tls=TlsConfig(chain))}, attempts=1
            ).blob(app(secure), layer(b"x"), MemorySink())
        assert storage.asked == []
        harness.client(hosts=hosts | {storage.host: HostConfig(storage.host, tls=identity)}).blob(
            app(secure), layer(b"x"), MemorySink()
        )
        assert storage.count("GET /data") == 1


def test_a_mirror_with_tls_trouble_is_passed_over(harness, secure, registry, ref):
    registry.on("GET ", served(DATA))
    client = harness.client(registry, mirrors={registry.host: (MirrorEndpoint(secure.url),)})
    assert client.manifest(ref(f"app@{layer(DATA).digest}")) == DATA


def test_tls_files_that_cannot_be_used_are_named(harness, secure, certificate, tmp_path):
    absent, other = tmp_path / "absent.pem", tmp_path / "other.pem"
    other.write_text("no PEM")
    for tls, said in (
        (TlsConfig(absent), f"the CA file {absent}: No such file or directory"),
        (TlsConfig(other), f"the CA file {other}: no PEM as it should be"),
        (TlsConfig(None, absent, absent), f"the client certificate {absent}, {absent}: No such file or directory"),
        (TlsConfig(None, other), f"the client certificate {other}: no PEM as it should be"),
    ):
        hosts = {secure.host: HostConfig(secure.host, tls=tls)}
        with pytest.raises(RegistryError, match=f"cannot use {re.escape(said)}"):
            harness.client(hosts=hosts).tag_digest(app(secure))
