"""Tags, referrers and deletions (case P73)."""

from __future__ import annotations

import itertools
import json

import pytest

from reconciler.errors import AuthError, InvalidError, NotFoundError, RegistryError
from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.registry import catalog
from reconciler.registry.hosts import Credentials, MirrorEndpoint
from reconciler.registry.link import next_page
from reconciler.testing.scripted_registry import FOREVER, Step

from .conftest import manifest

LIST = "GET /v2/app/tags/list"
DATA = manifest()
DIGEST = Digest.of(DATA)


def page(*tags: object, link: str = "", **more) -> Step:
    headers = {"Link": link} if link else {}
    return Step(200, json.dumps({"name": "app", "tags": list(tags)}).encode(), headers, **more)


@pytest.mark.parametrize(
    "link", ['<{url}/next?last=b&n=2>; rel="next"', "</next?last=b>;rel=next", '<../../../next>; rel="next"']
)
def test_p73_pages_are_followed(harness, registry, ref, link):
    registry.on(LIST, page("a", "b", link=link.format(url=registry.url))).on("GET /next", page("b", "c"))
    assert list(harness.client(registry).tags(ref("app"))) == ["a", "b", "c"]
    assert registry.lines[0] == f"{LIST}?n=1000"


def test_p73_what_is_not_taken_is_not_asked_for(harness, registry, ref):
    registry.on("GET ", page("a", "b", link='</v2/app/tags/list?last=b>; rel="next"'))
    assert list(itertools.islice(harness.client(registry).tags(ref("app")), 2)) == ["a", "b"]
    assert registry.count("") == 1


def test_p73_a_page_at_another_server_is_not_followed(harness, registry, storage, ref):
    registry.on(LIST, Step(401, b"", {"WWW-Authenticate": "Basic realm=x"}))
    registry.on(LIST, page("a", link=f'<{storage.url}/v2/app/tags/list?last=a>; rel="next"'))
    tags = harness.client(registry, credentials=Credentials("ci", "s3cret")).tags(ref("app"))
    with pytest.raises(RegistryError, match="goes on at another server"):
        next(tags)
    assert storage.asked == []


@pytest.mark.parametrize("location", ["ftp://h/x", "http://u:p@h/x", "https://[x/"])
def test_p73_pages_at_places_that_are_none(harness, registry, ref, location):
    registry.on(LIST, page("a", link=f'<{location}>; rel="next"'))
    with pytest.raises(RegistryError):
        list(harness.client(registry).tags(ref("app")))


def test_p73_pages_in_a_loop(harness, registry, ref):
    registry.on(LIST, page("a", link='</v2/app/tags/list?n=1000>; rel="next"'))
    with pytest.raises(RegistryError, match="does not end"):
        list(harness.client(registry).tags(ref("app")))
    assert registry.count("") == 1


def test_p73_more_tags_than_anybody_has(harness, registry, ref, monkeypatch):
    monkeypatch.setattr(catalog, "MAX_TAGS", 3)
    registry.on(LIST, page("a", "b", "c", "c", "d"))
    with pytest.raises(RegistryError, match="lists more than 3 tags"):
        list(harness.client(registry).tags(ref("app")))


def test_p73_more_referrers_than_anybody_has(harness, registry, ref, monkeypatch):
    monkeypatch.setattr(catalog, "MAX_REFERRERS", 2)
    entries = [{"mediaType": media.OCI_MANIFEST, "digest": Digest.of(bytes([n])), "size": 2} for n in range(3)]
    body = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}).encode()
    registry.on("GET /v2/app/referrers/", Step(200, body, {"Content-Type": media.OCI_INDEX}))
    with pytest.raises(RegistryError, match="has more than 2 entries"):
        harness.client(registry).referrers(ref(f"app@{DIGEST}"))


def test_p73_pages_without_end(harness, registry, ref, monkeypatch):
    monkeypatch.setattr(catalog, "MAX_PAGES", 10)
    number = itertools.count()
    endless = lambda asked: {"Link": f'</v2/app/tags/list?last={next(number)}>; rel="next"'}  # noqa: E731
    registry.on(LIST, Step(200, b'{"tags": ["a"]}', endless, times=FOREVER))
    with pytest.raises(RegistryError, match="gave up after 10 pages"):
        list(harness.client(registry).tags(ref("app")))
    assert registry.count("") == 10


def test_p73_a_page_is_bounded(harness, registry, ref):
    registry.on(LIST, Step(200, b" " * (catalog.MAX_PAGE_BYTES + 1)))
    with pytest.raises(InvalidError, match="more than the 4194304"):
        list(harness.client(registry).tags(ref("app")))


@pytest.mark.parametrize("body", [b"[]", b"no", b'{"tags": {}}', b'{"tags": "abc"}', b"[" * 100_000])
def test_what_is_no_list(harness, registry, ref, body):
    registry.on(LIST, Step(200, body))
    with pytest.raises(RegistryError):
        list(harness.client(registry).tags(ref("app")))


@pytest.mark.parametrize("tag", ["../x", "", 7, None, "a\x1b[31m", "x" * 129, f"a@sha256:{'0' * 64}"])
def test_what_is_no_tag(harness, registry, ref, tag):
    registry.on(LIST, page("a", tag))
    with pytest.raises(RegistryError, match="no tag") as caught:
        list(harness.client(registry).tags(ref("app")))
    assert str(caught.value).isprintable()


def test_no_tags_and_no_repository(harness, registry, ref):
    registry.on(LIST, Step(200, b'{"name": "app", "tags": null}'), Step(404))
    client = harness.client(registry)
    assert list(client.tags(ref("app"))) == []
    with pytest.raises(NotFoundError, match="no list of tags of app there"):
        list(client.tags(ref("app")))


def test_a_page_is_asked_for_again_where_it_failed(harness, registry, mirror, ref):
    registry.on(LIST, page("a", link='</two>; rel="next"')).on("GET /two", Step(503), page("b"))
    mirrors = {registry.host: (MirrorEndpoint(mirror.url, "first"),)}
    assert list(harness.client(registry, mirrors=mirrors).tags(ref("app"))) == ["a", "b"]
    assert mirror.asked == [], "a mirror's list is no list"


@pytest.mark.parametrize(
    ("headers", "target"),
    [
        (['<a>; rel="prev", <b>; rel="next"'], "b"),
        (['<a>; title="x, <c>; rel=next"; rel="up next"'], "a"),
        (["<a>", "<b>; REL=NEXT"], "b"),
        (["", "rubbish", "<a; rel=next", '<a>; rel="nexus"'], None),
        (["<" * 100_000, "<a>" + ";" * 100_000, "<a>" + " ;a" * 100_000], None),
    ],
)
def test_link_headers(headers, target):
    assert next_page(headers) == target


def test_a_manifest_is_deleted_by_digest(harness, registry, ref):
    registry.on(f"DELETE /v2/app/manifests/{DIGEST}", Step(202), Step(404))
    client = harness.client(registry)
    assert client.delete_manifest(ref(f"app@{DIGEST}")) is True
    assert client.delete_manifest(ref(f"app@{DIGEST}")) is False


@pytest.mark.parametrize(("status", "kind"), [(405, RegistryError), (403, AuthError), (400, RegistryError)])
def test_a_deletion_that_is_refused(harness, registry, ref, status, kind):
    registry.on("DELETE ", Step(status))
    with pytest.raises(kind) as caught:
        harness.client(registry).delete_manifest(ref(f"app@{DIGEST}"))
    assert caught.value.hint or status == 400


def test_never_by_tag(harness, registry, ref):
    with pytest.raises(InvalidError, match="names no digest"):
        harness.client(registry).delete_manifest(ref("app:1"))
    assert registry.asked == []


def entry(name: str, kind: str) -> dict[str, object]:
    digest = Digest.of(name.encode())
    return {"mediaType": media.OCI_MANIFEST, "digest": str(digest), "size": 5, "artifactType": kind}


def index(*entries: dict[str, object]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": list(entries)}).encode()


REFERRERS = f"GET /v2/app/referrers/{DIGEST}"
TAG = f"GET /v2/app/manifests/sha256-{DIGEST.hex}"
SIGNATURE, BOM = entry("sig", "application/sig"), entry("bom", "application/bom")


def test_referrers(harness, registry, ref):
    registry.on(
        REFERRERS, Step(200, index(SIGNATURE), {"Content-Type": media.OCI_INDEX, "Link": '</more>; rel="next"'})
    )
    registry.on("GET /more", Step(200, index(BOM)))
    found = harness.client(registry).referrers(ref(f"app@{DIGEST}"))
    assert [entry.artifact_type for entry in found] == ["application/sig", "application/bom"]


def test_referrers_of_one_type_from_a_server_that_does_not_filter(harness, registry, ref):
    registry.on(REFERRERS, Step(200, index(SIGNATURE, BOM)))
    (found,) = harness.client(registry).referrers(ref(f"app@{DIGEST}"), "application/bom")
    assert found.digest == BOM["digest"]
    assert registry.lines == [f"{REFERRERS}?artifactType=application%2Fbom"]


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_referrers_by_tag_where_there_is_no_api(harness, registry, ref, status):
    registry.on(REFERRERS, Step(status)).on(TAG, Step(200, index(SIGNATURE)))
    (found,) = harness.client(registry).referrers(ref(f"app@{DIGEST}"))
    assert found.digest == SIGNATURE["digest"]


def test_nothing_refers_to_it(harness, registry, ref):
    registry.on(REFERRERS, Step(404)).on(TAG, Step(404))
    assert harness.client(registry).referrers(ref(f"app@{DIGEST}")) == ()


def test_referrers_that_cannot_be_known_are_not_none(harness, registry, ref):
    registry.on(REFERRERS, Step(500, times=4))
    with pytest.raises(RegistryError, match="500"):
        harness.client(registry).referrers(ref(f"app@{DIGEST}"))


@pytest.mark.parametrize("body", [b"{}", b"<html>", DATA])
def test_referrers_that_are_no_index(harness, registry, ref, body):
    registry.on(REFERRERS, Step(200, body))
    with pytest.raises(InvalidError):
        harness.client(registry).referrers(ref(f"app@{DIGEST}"))
