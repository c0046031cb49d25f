"""Servers that say our secrets back to us: in errors, and in addresses."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from reconciler.errors import ReconcilerError, RegistryError
from reconciler.registry.hosts import Credentials
from reconciler.testing.scripted_registry import Step

from .conftest import MemorySink, layer

HEAD, BLOB = "GET /v2/app/manifests/", "GET /v2/app/blobs/"
PASSWORD = 'pa"ss wörd/5512'
USER = Credentials("ci", PASSWORD)
DIGEST = layer(b"x").digest


def echo(status: int, form: str = "json") -> Step:
    """Refuses a request by telling it again."""

    def body(asked) -> bytes:
        proof = asked.headers.get("authorization", "")
        plain = base64.b64decode(proof[6:]).decode().partition(":")[2] if proof.startswith("Basic ") else ""
        told = f"{proof} {plain} {quote(plain)} {base64.b64encode(plain.encode()).decode()} {asked.body.decode()}"
        told += f" {asked.line} {dict(asked.headers)}"
        if form == "json":
            return json.dumps({"errors": [{"code": "DENIED", "message": told}]}).encode()
        return told.encode() if form == "text" else b"x" * 290 + proof.encode()

    return Step(status, body, times=4)


def secrets(password: str) -> list[str]:
    encoded = [base64.b64encode(text.encode()).decode() for text in (password, f"ci:{password}")]
    return [password, quote(password), json.dumps(password)[1:-1], *(text.rstrip("=") for text in encoded)]


@pytest.mark.parametrize("form", ["json", "text", "at the cut"])
@pytest.mark.parametrize("status", [401, 403, 404, 418, 500])
def test_a_login_in_the_body_of_an_error(harness, registry, ref, status, form):
    registry.on(HEAD, Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}), echo(status, form))
    with pytest.raises(ReconcilerError) as caught:
        harness.client(registry, credentials=USER).manifest(ref(f"app@{DIGEST}"))
    told = f"{caught.value} {caught.value.hint} {harness.notes}"
    assert not [secret for secret in secrets(PASSWORD) if secret[:12] in told]
    if form == "json" and status != 401:
        assert "DENIED" in told
        assert "***" in told


def test_a_token_in_the_body_of_an_error(harness, registry, storage, ref):
    registry.on(HEAD, Step(401, b"", {"WWW-Authenticate": f'Bearer realm="{storage.url}/token"'}), echo(403))
    storage.on("GET /token", Step(200, b'{"token": "token-5512-abcdef"}'))
    with pytest.raises(RegistryError) as caught:
        harness.client(registry).manifest(ref(f"app@{DIGEST}"))
    assert "token-5512" not in str(caught.value)


@pytest.mark.parametrize("login", [USER, Credentials("", "", "identity-5512/x y")], ids=["password", "identity token"])
@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_a_login_that_the_token_server_repeats(harness, registry, storage, ref, login, status):
    challenge = Step(401, b"", {"WWW-Authenticate": f'Bearer realm="{storage.url}/token"'}, times=4)
    registry.on(HEAD, challenge)
    storage.on("", echo(status))
    with pytest.raises(RegistryError) as caught:
        harness.client(registry, credentials=login).manifest(ref(f"app@{DIGEST}"))
    told = f"{caught.value} {caught.value.hint} {harness.notes}"
    assert not [secret for secret in [*secrets(PASSWORD), "identity-5512"] if secret[:12] in told]


def test_a_signature_that_storage_repeats(harness, registry, storage, ref):
    registry.on(BLOB, Step(307, b"", {"Location": f"{storage.url}/data?sig=signature-5512%2Fx&n=1"}, times=4))
    storage.on("GET /data", echo(403))
    with pytest.raises(RegistryError) as caught:
        harness.client(registry).blob(ref("app:1"), layer(b"x"), MemorySink())
    assert "signature-5512" not in f"{caught.value} {harness.notes}"


@pytest.mark.parametrize("start", ["ftp://host/x", "http://user:sig-5512@host/x", "http://[bad/x", "//a:sig-5512@h"])
@pytest.mark.parametrize("sign", ["?", "#"])
def test_a_signature_in_an_address_that_leads_nowhere(harness, registry, ref, start, sign):
    registry.on(BLOB, Step(307, b"", {"Location": f"{start}{sign}sig-5512"}))
    with pytest.raises(RegistryError, match="sends us to") as caught:
        harness.client(registry).blob(ref("app:1"), layer(b"x"), MemorySink())
    assert "sig-5512" not in str(caught.value)
