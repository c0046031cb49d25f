"""A whole registry in memory behind HTTP, with the manners that registries differ in.

    with ServedRegistry(referrers_api=True, deletes=405) as registry:
        registry.put("app", document, tag="1.0")
        registry.on("HEAD /v2/app/manifests/1.0", Step(429, headers={"Retry-After": "7"}))
        ...
        assert registry.tags["app"]["1.0"] == digest

Steps that a test adds with ``on`` come first, each as often as it says; all else is answered as the distribution
specification has it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.testing.recorded import Asked
from reconciler.testing.scripted_registry import ScriptedRegistry, Step

_PATH = re.compile(r"/v2/(?P<name>.+?)/(?P<what>manifests|blobs/uploads|blobs|tags|referrers)/(?P<rest>.*)")
_REFUSALS = {403: "DENIED", 404: "UNSUPPORTED", 405: "UNSUPPORTED"}


class ServedRegistry(ScriptedRegistry):
    """``deletes`` is the status of a deletion: 202 carries it out. ``immutable`` says of which tags moves are refused.

    ``logins`` are by repository the only ``user:password`` that it lets in, where it is to ask for one. ``uploads``
    are the sessions begun and neither finished nor ended.
    """

    def __init__(
        self,
        *,
        referrers_api: bool = False,
        deletes: int = 202,
        immutable: Callable[[str], int] = lambda _tag: 0,
        mounts: bool = True,
        logins: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.referrers_api = referrers_api
        self.deletes = deletes
        self.immutable = immutable
        self.mounts = mounts
        self.logins = logins or {}
        self.manifests: dict[str, dict[Digest, tuple[str, bytes]]] = {}
        self.tags: dict[str, dict[str, Digest]] = {}
        self.blobs: dict[str, dict[Digest, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self._numbers = count(1)

    # For the test to fill it

    def blob(self, name: str, data: bytes) -> dict[str, Any]:
        """Puts a blob; its descriptor as a layer."""
        digest = Digest.of(data)
        self.blobs.setdefault(name, {})[digest] = data
        return {"mediaType": media.OCI_LAYER_GZIP, "digest": str(digest), "size": len(data)}

    def put(self, name: str, document: Mapping[str, Any] | bytes, tag: str = "", kind: str = "") -> Digest:
        """Puts a manifest as it is, whatever it says."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        digest = Digest.of(data)
        kind = kind or (document["mediaType"] if not isinstance(document, bytes) else media.OCI_MANIFEST)
        self.manifests.setdefault(name, {})[digest] = (kind, data)
        if tag:
            self.tags.setdefault(name, {})[tag] = digest
        return digest

    def image(self, name: str, tag: str, *layers: bytes, **more: Any) -> Digest:
        """Puts an image of these layers; ``more`` are fields of its manifest."""
        config = self.blob(name, b'{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[]}}')
        document = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": config | {"mediaType": media.OCI_CONFIG},
            "layers": [self.blob(name, layer) for layer in layers],
            **more,
        }
        return self.put(name, document, tag)

    def index(self, name: str, tag: str, parts: Mapping[str, Digest], **more: Any) -> Digest:
        """Puts an index of images by architecture."""
        entries = [
            self.descriptor(name, digest) | {"platform": {"os": "linux", "architecture": architecture}}
            for architecture, digest in parts.items()
        ]
        return self.put(name, {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries, **more}, tag)

    def referrer(self, name: str, subject: Digest, seed: bytes, kind: str = "application/vnd.example.sig") -> Digest:
        """Puts what refers to ``subject``; where this registry keeps no list, into the tag that stands in for it."""
        made = self.image(name, "", seed, subject=self.descriptor(name, subject), artifactType=kind)
        if not self.referrers_api:
            tag = str(subject).replace(":", "-")
            there = self.document(name, self.tags[name][tag])["manifests"] if tag in self.tags[name] else []
            entries = [*there, self.descriptor(name, made) | {"artifactType": kind}]
            self.put(name, {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}, tag)
        return made

    def descriptor(self, name: str, digest: Digest) -> dict[str, Any]:
        kind, data = self.manifests[name].get(digest) or (media.OCI_MANIFEST, b"{}")
        return {"mediaType": kind, "digest": str(digest), "size": len(data)}

    def document(self, name: str, digest: Digest) -> Any:
        return json.loads(self.manifests[name][digest][1])

    def listed(self, name: str, subject: Digest) -> set[Digest]:
        """What this registry would tell of what refers to ``subject``."""
        found = set()
        for digest in self.manifests.get(name, {}):
            document = self.document(name, digest)
            if (document.get("subject") or {}).get("digest") == str(subject):
                found.add(digest)
        return found

    # What it answers

    def answer(self, asked: Asked) -> Step:
        scripted = self.scripted(asked)
        return scripted if scripted is not None else self._answer(asked)

    def _answer(self, asked: Asked) -> Step:
        method, _, target = asked.line.partition(" ")
        address = urlsplit(target)
        match = _PATH.fullmatch(address.path)
        if match is None:
            return Step(200)
        name, rest = match["name"], match["rest"]
        if name in self.logins and asked.headers.get("authorization") != _basic(self.logins[name]):
            return _refusal(401, "UNAUTHORIZED", [("WWW-Authenticate", 'Basic realm="test"')])
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        match match["what"]:
            case "manifests":
                return self._manifest(method, name, rest, asked)
            case "blobs":
                found = self.blobs.get(name, {}).get(Digest(rest))
                return Step(200, found) if found is not None else _refusal(404, "BLOB_UNKNOWN")
            case "blobs/uploads":
                return self._upload(method, name, rest, query, asked.body)
            case "tags":
                return self._tags(name, query)
            case _:
                return self._referrers(name, Digest(rest))

    def _manifest(self, method: str, name: str, target: str, asked: Asked) -> Step:
        held, tags = self.manifests.get(name, {}), self.tags.get(name, {})
        if method == "PUT":
            return self._store(name, target, asked)
        digest = Digest(target) if ":" in target else tags.get(target)
        if digest is None or digest not in held:
            return _refusal(404, "MANIFEST_UNKNOWN")
        if method == "DELETE":
            if self.deletes != 202:
                return _refusal(self.deletes, _REFUSALS.get(self.deletes, "UNKNOWN"))
            del held[digest]
            self.tags[name] = {tag: there for tag, there in tags.items() if there != digest}
            return Step(202)
        kind, data = held[digest]
        return Step(200, data, [("Content-Type", kind), ("Docker-Content-Digest", str(digest))])

    def _store(self, name: str, target: str, asked: Asked) -> Step:
        document = json.loads(asked.body)
        digest = Digest.of(asked.body)
        blobs, held = self.blobs.get(name, {}), self.manifests.setdefault(name, {})
        for entry in [*document.get("layers", ()), *filter(None, [document.get("config")])]:
            if Digest(entry["digest"]) not in blobs:
                return _refusal(400, "MANIFEST_BLOB_UNKNOWN")
        if any(Digest(entry["digest"]) not in held for entry in document.get("manifests", ())):
            return _refusal(400, "MANIFEST_UNKNOWN")
        if ":" not in target:
            tags = self.tags.setdefault(name, {})
            if target in tags and tags[target] != digest and (status := self.immutable(target)):
                return _refusal(status, "TAG_IMMUTABLE")
            tags[target] = digest
        held[digest] = (asked.headers["content-type"], asked.body)
        headers = [("Docker-Content-Digest", str(digest))]
        if self.referrers_api and document.get("subject"):
            headers.append(("OCI-Subject", document["subject"]["digest"]))
        return Step(201, headers=headers)

    def _upload(self, method: str, name: str, session: str, query: Mapping[str, str], body: bytes) -> Step:
        if method == "POST":
            wanted, origin = query.get("mount", ""), query.get("from", "")
            if self.mounts and wanted and Digest(wanted) in self.blobs.get(origin, {}):
                self.blobs.setdefault(name, {})[Digest(wanted)] = self.blobs[origin][Digest(wanted)]
                return Step(201)
            session = str(next(self._numbers))
            self.uploads[session] = b""
            return Step(202, headers={"Location": f"/v2/{name}/blobs/uploads/{session}"})
        if session not in self.uploads:
            return _refusal(404, "BLOB_UPLOAD_UNKNOWN")
        if method == "DELETE":
            del self.uploads[session]
            return Step(204)
        if method == "GET":
            end = max(0, len(self.uploads[session]) - 1)
            return Step(204, headers={"Range": f"0-{end}", "Location": f"/v2/{name}/blobs/uploads/{session}"})
        data = self.uploads[session] + body
        if method == "PATCH":
            self.uploads[session] = data
            return Step(202, headers={"Location": f"/v2/{name}/blobs/uploads/{session}"})
        if Digest.of(data) != query.get("digest"):
            return _refusal(400, "DIGEST_INVALID")
        del self.uploads[session]
        self.blobs.setdefault(name, {})[Digest.of(data)] = data
        return Step(201)

    def _tags(self, name: str, query: Mapping[str, str]) -> Step:
        if name not in self.manifests:
            return _refusal(404, "NAME_UNKNOWN")
        size, last = int(query.get("n", "1000")), query.get("last", "")
        left = sorted(tag for tag in self.tags.get(name, {}) if tag > last)
        page = left[:size]
        more = [("Link", f'</v2/{name}/tags/list?n={size}&last={page[-1]}>; rel="next"')] if len(left) > size else []
        return Step(200, json.dumps({"name": name, "tags": page}).encode(), more)

    def _referrers(self, name: str, subject: Digest) -> Step:
        if not self.referrers_api:
            return Step(404, b"404 page not found")
        entries = [
            self.descriptor(name, digest) | {"artifactType": self.document(name, digest).get("artifactType", "")}
            for digest in sorted(self.listed(name, subject))
        ]
        document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}
        return Step(200, json.dumps(document).encode(), {"Content-Type": media.OCI_INDEX})


def _refusal(status: int, code: str, headers: list[tuple[str, str]] | None = None) -> Step:
    body = json.dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}).encode()
    return Step(status, body, headers or [])


def _basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"
