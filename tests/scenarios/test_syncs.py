"""Syncs between two real registries: what is copied, what it costs, what is taken away, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from reconciler.oci import media
from reconciler.oci.digest import Digest
from reconciler.testing.host import Host
from reconciler.testing.registry_server import RegistryServer, running_registry
from reconciler.testing.repository_images import RepositoryImages

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with running_registry(tmp_path_factory.mktemp("upstream")) as server:
        yield server


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with running_registry(tmp_path_factory.mktemp("mirror")) as server:
        yield server


@pytest.fixture
def source(upstream: RegistryServer, request: pytest.FixtureRequest) -> Iterator[RepositoryImages]:
    with RepositoryImages(f"{upstream.host}/{_name(request)}") as images:
        yield images


@pytest.fixture
def target(mirror: RegistryServer, request: pytest.FixtureRequest) -> Iterator[RepositoryImages]:
    with RepositoryImages(f"{mirror.host}/{_name(request)}") as images:
        yield images


def _name(request: pytest.FixtureRequest) -> str:
    return request.node.name.partition("[")[0].replace("_", "-")


def declare(host: Host, source: RepositoryImages, target: RepositoryImages, fields: str = "") -> None:
    hosts = {name.partition("/")[0] for name in (source.name, target.name)}
    registries = ", ".join(f"'{name}': {{plain_http: true}}" for name in sorted(hosts))
    more = f", {fields}" if fields else ""
    host.write(
        f"apiVersion: reconciler/v1\nstack: mirrors\nregistries: {{{registries}}}\n"
        f"syncs: {{{target.name}: {{from: {source.name}{more}}}}}\n"
    )


def tag_fields(host: Host) -> dict[str, tuple[Any, Any]]:
    """The tags that a plan would change: before and after."""
    fields = [field for change in host.plan()["changes"] for field in change["fields"]]
    return {field["path"][5:-1]: (field["before"], field["after"]) for field in fields if field["path"][:5] == "tags["}


def signature_of(images: RepositoryImages, subject: Digest) -> Digest:
    """A manifest that refers to ``subject``, and the tag that lists it: this registry keeps no list itself."""
    size = len(json.dumps(images.read(subject)).encode())
    signature = images.image(
        None,
        b"a signature",
        artifactType="application/vnd.example.signature",
        subject={"mediaType": media.OCI_MANIFEST, "digest": subject, "size": size},
    )
    images.index(str(subject).replace(":", "-"), {"amd64": signature})
    return signature


def test_everything_goes_along_and_a_second_run_sends_nothing(
    host: Host,
    upstream: RegistryServer,
    mirror: RegistryServer,
    source: RepositoryImages,
    target: RepositoryImages,
) -> None:
    base = os.urandom(500_000)
    one = source.image("1.0", base, b"one")
    source.image("1.1", base, b"two")
    parts = {"amd64": source.image(None, base, b"amd"), "arm64": source.image(None, b"arm", architecture="arm64")}
    attestation = source.image(None, b"provenance")
    about = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": parts["amd64"]}
    source.index("2.0", parts, provenance=(attestation, about))
    signature = signature_of(source, one)
    source.image(f"sha256-{one.hex}.sig", b"cosign's")
    source.image(f"sha256-{parts['arm64'].hex}.att", b"of a part of an index")
    declare(host, source, target)
    before = tag_fields(host)
    assert before["1.0"] == (None, one)
    assert mirror.requests("PUT") == mirror.requests("POST") == 0  # a plan writes nothing

    host.apply()
    assert target.tags() == source.tags()
    assert target.read(signature)["subject"]["digest"] == one
    assert target.read(attestation) == source.read(attestation)
    blob = f"/blobs/{Digest.of(base)}"
    assert upstream.requests("GET", blob) == 1  # three images have it, and it travelled once
    sent = mirror.requests("PUT", "/blobs/")
    assert not list((host.root / "blobs").rglob("*")) or not any(p.is_file() for p in (host.root / "blobs").rglob("*"))

    assert host.is_converged()
    host.apply()
    assert mirror.requests("PUT", "/blobs/") == sent
    assert upstream.requests("GET", blob) == 1
    assert "checked" in host.run("status").out

    late = f"sha256-{one.hex}.sbom"
    source.image(late, b"made later")
    assert tag_fields(host).keys() == {late}
    host.apply()
    assert target.tags() == source.tags()
    host.run("destroy", "mirrors", "--yes")
    assert host.run("status", "-o", "json").json["syncs"] == []
    assert target.tags() == source.tags()


def test_within_one_registry_blobs_are_mounted(host: Host, upstream: RegistryServer, source: RepositoryImages) -> None:
    layer = os.urandom(100_000)
    source.image("1", layer)
    with RepositoryImages(f"{upstream.host}/mounted/here") as target:
        declare(host, source, target)
        host.apply()
        assert target.tags() == source.tags()
    assert upstream.requests("GET", f"/blobs/{Digest.of(layer)}") == 0


def test_platforms_make_an_index_of_their_own_and_it_is_known_again(
    host: Host, upstream: RegistryServer, source: RepositoryImages, target: RepositoryImages
) -> None:
    parts = {"amd64": source.image(None, b"amd"), "arm64": source.image(None, b"arm", architecture="arm64")}
    index = source.index("1.0", parts)
    source.image("plain", b"plain")
    source.image(f"sha256-{index.hex}.sig", b"of the whole")
    declare(host, source, target, "platforms: [linux/amd64]")
    host.apply()
    found = target.tags()
    assert found.keys() == {"1.0", "plain"}
    made = found["1.0"]
    assert made is not None and made != index
    assert [entry["digest"] for entry in target.read(made)["manifests"]] == [parts["amd64"]]
    fetched = upstream.requests("GET", "/manifests/")
    assert host.is_converged()
    assert upstream.requests("GET", "/manifests/") == fetched

    source.index("bad", {"s390x": parts["arm64"]})
    plan = host.plan()
    assert plan["errored"]
    (blocked,) = plan["blocked"]
    assert "tag bad is not copied: it is for linux/s390x, not for linux/amd64" in blocked["message"]


def test_prune_makes_the_tags_exactly_the_set(host: Host, source: RepositoryImages, target: RepositoryImages) -> None:
    for version in ("1.0", "1.1", "2.0"):
        source.image(version, version.encode())
    source.index("3.0", {"amd64": source.image(None, b"part")})
    target.image("3.0-amd64", b"part")  # without it the index would be broken
    old = target.image("0.9", b"old")
    target.image("keep-me", b"mine")
    target.image("alias", b"2.0")  # the very image of 2.0: deleting it by digest would take 2.0 along
    target.image(f"sha256-{old.hex}.sig", b"of what goes")
    declare(host, source, target, "tags: {semver: '>=1.1'}, prune: {protect: [keep-.*]}")
    plan = host.plan()
    assert any("3.0-amd64, alias stay" in note for note in plan["notes"])
    host.apply()
    assert target.tags().keys() == {"1.1", "2.0", "3.0", "3.0-amd64", "keep-me", "alias"}
    assert host.is_converged()


def test_too_many_deletions_are_refused_until_somebody_allows_them(
    host: Host, source: RepositoryImages, target: RepositoryImages
) -> None:
    source.image("1.0", b"1.0")
    for number in range(6):
        target.image(f"old-{number}", f"old {number}".encode())
    declare(host, source, target, "tags: ['1.0'], prune: true")
    refused = host.run("apply", host.specs, "--yes", code=7)
    assert "--max-deletes 6" in refused.err
    assert len(target.tags()) == 6
    host.apply("--max-deletes", 6)
    assert target.tags().keys() == {"1.0"}


def test_what_fails_leaves_the_other_tags_done(
    host: Host, upstream: RegistryServer, source: RepositoryImages, target: RepositoryImages
) -> None:
    source.image("good", b"good layer")
    torn = b"torn layer"
    source.image("torn", torn)
    hexadecimal = Digest.of(torn).hex
    data = upstream.log.parent / "data/docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"
    data.unlink()
    declare(host, source, target)
    result = host.apply(code=4)
    assert "torn" in result.text
    assert target.tags().keys() == {"good"}
    assert "failed: torn" in host.run("status").out


def test_a_kill_in_the_middle_leaves_no_tag_without_its_parts(
    host: Host, mirror: RegistryServer, source: RepositoryImages, target: RepositoryImages
) -> None:
    layers = {f"{number}": os.urandom(8_000_000) for number in range(6)}
    for tag, layer in layers.items():
        source.image(tag, layer)
    declare(host, source, target)
    apply = host.start("--progress", "quiet", "apply", host.specs, "--yes")
    deadline = time.monotonic() + 30
    while not (done := target.tags()):
        assert time.monotonic() < deadline
    apply.send_signal(signal.SIGKILL)
    host.finish(apply)
    assert done
    have = {tag for tag in layers if _is_whole(mirror, layers[tag])}
    assert target.tags().keys() <= have
    uploaded = {tag: mirror.requests("PUT", f"digest=sha256%3A{Digest.of(layers[tag]).hex}") for tag in have}
    host.apply()
    assert target.tags() == source.tags()
    again = {tag: mirror.requests("PUT", f"digest=sha256%3A{Digest.of(layers[tag]).hex}") for tag in have}
    assert again == uploaded  # what had arrived was not sent again


def _is_whole(mirror: RegistryServer, layer: bytes) -> bool:
    found = Digest.of(layer).hex
    path = mirror.log.parent / "data/docker/registry/v2/blobs/sha256" / found[:2] / found / "data"
    return path.exists() and path.stat().st_size == len(layer)


def test_a_daemon_asks_once_an_interval_and_tells_when(
    host: Host, upstream: RegistryServer, source: RepositoryImages, target: RepositoryImages
) -> None:
    source.image("1", b"one")
    declare(host, source, target, "interval: 1h")
    daemon = host.start("daemon", host.specs, "--interval", "1s", log=True)
    host.until(lambda: target.tags().keys() == {"1"})
    host.until(lambda: _daemon(host)["result"] == "converged")
    asked = upstream.requests("GET", "/tags/list")
    source.image("2", b"two")
    revision = _daemon(host)["revision"]
    host.specs.joinpath("shop.yaml").write_text(host.specs.joinpath("shop.yaml").read_text() + "# looked at again\n")
    host.until(lambda: _daemon(host)["revision"] != revision and _daemon(host)["result"] == "converged")
    assert upstream.requests("GET", "/tags/list") == asked
    assert target.tags().keys() == {"1"}
    (sync,) = host.run("status", "-o", "json").json["syncs"]
    assert sync["next_check_at"] - sync["checked_at"] == pytest.approx(3600)
    daemon.send_signal(signal.SIGTERM)
    assert host.finish(daemon).code == 143


def test_the_example_converges(host: Host, upstream: RegistryServer, mirror: RegistryServer) -> None:
    """As it stands, but for the ports of the two registries."""
    text = (Path(__file__).parents[2] / "examples/syncs/syncs.yaml").read_text()
    host.write(text.replace("127.0.0.1:5000", upstream.host).replace("127.0.0.1:5001", mirror.host), "syncs.yaml")
    with ExitStack() as held:
        app, tools, mirrored, filtered = (
            held.enter_context(RepositoryImages(name))
            for name in (
                f"{upstream.host}/app",
                f"{upstream.host}/tools",
                f"{mirror.host}/mirror/app",
                f"{mirror.host}/mirror/tools",
            )
        )
        for version in ("0.9", "1.0", "1.1", "1.2", "2.0"):
            app.image(version, version.encode())
        mirrored.image("keep-this", b"kept")
        mirrored.image("stale", b"stale")
        parts = {"amd64": tools.image(None, b"amd"), "arm64": tools.image(None, b"arm", architecture="arm64")}
        for tag in ("stable", "edge", "other"):
            tools.index(tag, parts)
        host.apply()
        assert mirrored.tags().keys() == {"1.1", "1.2", "keep-this"}
        assert filtered.tags().keys() == {"stable", "edge"}
    assert host.is_converged()


def _daemon(host: Host) -> dict[str, Any]:
    found = host.run("status", "-o", "json").json["daemon"]
    conditions: dict[str, Any] = found["conditions"] if found else {"result": "", "revision": ""}
    return conditions


def test_a_big_image_passes_through_and_leaves_nothing(
    host: Host, mirror: RegistryServer, source: RepositoryImages, target: RepositoryImages
) -> None:
    source.image("small", b"small")
    declare(host, source, target)
    host.apply()
    before, usual = _files(host), _peak(host)
    source.image("big", os.urandom(60_000_000))
    assert _peak(host) - usual < 30_000  # kB: streamed, a few pieces at a time
    assert target.tags() == source.tags()
    assert _files(host) == before
    uploads = mirror.log.parent / "data/docker/registry/v2/repositories" / target.name.partition("/")[2] / "_uploads"
    assert not any(uploads.iterdir())


def _files(host: Host) -> set[str]:
    """All files of the root but for the database's own, which has other pages after each apply."""
    found = {str(path.relative_to(host.root)) for path in host.root.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("state.db")}


def _peak(host: Host) -> int:
    """An apply, and the most memory that it held at a time, in kB."""
    process = host.start("--progress", "quiet", "apply", host.specs, "--yes")
    peak = 0
    while process.poll() is None:
        with suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
        time.sleep(0.005)
    assert host.finish(process).code == 0
    return peak


def test_a_registry_without_deletions_gets_everything_else(
    host: Host, source: RepositoryImages, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        running_registry(tmp_path_factory.mktemp("keeping"), deletes=False) as keeping,
        RepositoryImages(f"{keeping.host}/app") as target,
    ):
        target.image("old", b"old")
        source.image("1.0", b"one")
        declare(host, source, target, "tags: ['1.0'], prune: true")
        failed = host.apply(code=4)
        assert "does not allow deletions (405 UNSUPPORTED" in failed.text
        assert target.tags().keys() == {"1.0", "old"}
        asked = keeping.requests("DELETE")
        daemon = host.start("daemon", host.specs, "--interval", "1s", log=True)
        host.until(lambda: _daemon(host)["result"] == "failed")
        (failure,) = _daemon(host)["failures"]
        assert "what failed last is tried again later: old: " in failure["message"]
        assert keeping.requests("DELETE") == asked == 1
        daemon.send_signal(signal.SIGTERM)
        assert host.finish(daemon).code == 143
