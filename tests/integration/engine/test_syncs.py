"""Syncs of the embedded engine between registries with manners of their own."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from pathlib import Path

import pytest

from reconciler.engine.embedded.engine import EmbeddedEngine
from reconciler.errors import RateLimitError, RefusedError, RegistryError
from reconciler.model.observed import Interest
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import Prune
from reconciler.model.selection import TagSelection
from reconciler.oci import media
from reconciler.oci.companion import referrers_tag
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.plan.saved import load, same_work, save
from reconciler.reconcile import prepare
from reconciler.testing.scripted_registry import Step
from reconciler.testing.served_registry import ServedRegistry
from reconciler.testing.sync_world import SyncWorld, fields, said

pytestmark = pytest.mark.root
EVERY = TagSelection(allow=(".*",))
METHODS = ("HEAD ", "GET ", "PUT ", "POST ")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., SyncWorld]]:
    with ExitStack() as held:
        yield lambda *registries, **options: held.enter_context(SyncWorld(tmp_path, *registries, **options))


def test_a_plain_sync(world):
    made = world()
    made.source.image("app", "1.0", b"layer")
    assert fields(made.plan()).keys() == {"tags[1.0]"}
    report = made.apply()
    assert report.converged, said(report.last)
    assert made.target.tags == made.source.tags


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (405, "does not allow deletions (405 UNSUPPORTED"),
        (404, "does not allow deletions (404 UNSUPPORTED"),
        (403, "403 DENIED"),
        (400, "400 UNKNOWN"),
        (410, "410 UNKNOWN"),
    ],
)
def test_a_registry_that_refuses_deletions_keeps_back_nothing_else(world, status, message):
    made = world(None, ServedRegistry(deletes=status), tags=EVERY, prune=Prune())
    made.source.image("app", "1.0", b"one")
    made.target.image("app", "old", b"old")
    assert fields(made.plan()).keys() == {"tags[1.0]", "tags[old]"}
    report = made.apply()
    assert report.exit_code == 4
    (failure,) = report.failures
    assert isinstance(failure.error, RegistryError)
    assert message in str(failure.error)
    assert made.target.tags["app"].keys() == {"1.0", "old"}
    asked = made.target.count("DELETE ")
    for _ in range(3):  # a daemon's passes before the next look is due
        again = made.one_pass()
        assert not again.performed
        assert f"what failed last is tried again later: old: {failure.error}" in said(again.plan)
    assert made.target.count("DELETE ") == asked == 1


def test_a_deletion_that_is_not_made_is_no_success(world):
    made = world(tags=EVERY, prune=Prune())
    made.source.image("app", "1.0", b"one")
    made.target.image("app", "old", b"old")
    made.target.on("DELETE ", Step(404, b"{}", times=9))
    report = made.apply()
    assert "says that there is no" in str(report.failures[0].error)
    assert report.exit_code == 4


def referrers_at(registry: ServedRegistry, subject: Digest) -> set[str]:
    """What a client would find at a registry that refers to ``subject``."""
    if registry.referrers_api:
        return {str(digest) for digest in registry.listed("app", subject)}
    tag = registry.tags["app"].get(referrers_tag(subject))
    return {entry["digest"] for entry in registry.document("app", tag)["manifests"]} if tag else set()


KINDS = [(at_source, at_target) for at_source in (True, False) for at_target in (True, False)]


@pytest.mark.parametrize(("at_source", "at_target"), KINDS)
def test_what_refers_to_a_tag_later_is_noticed_and_carried(world, at_source, at_target):
    made = world(ServedRegistry(referrers_api=at_source), ServedRegistry(referrers_api=at_target))
    amd, arm = made.source.image("app", "", b"amd"), made.source.image("app", "", b"arm")
    index = made.source.index("app", "1.0", {"amd64": amd, "arm64": arm})
    plain = made.source.image("app", "plain", b"plain")
    first = made.source.referrer("app", plain, b"first")
    assert made.apply().converged
    assert referrers_at(made.target, plain) == {first}

    second = made.source.referrer("app", plain, b"second")
    of_a_part = made.source.referrer("app", amd, b"of a part")
    of_the_second = made.source.referrer("app", second, b"of the second")
    ours = made.target.referrer("app", plain, b"made at the target")
    plan = made.plan()
    found = fields(plan)
    assert found.pop("referrers[1.0][0]") == (None, of_a_part)
    assert {after for _, after in found.values()} == {second, of_the_second}
    assert "referrers of 2 tags to add" in plan.changes[0].reason.message
    assert [step.action.verb for step in plan.steps] == ["attach", "attach"]
    assert made.apply().converged
    assert referrers_at(made.target, plain) == {first, second, ours}
    assert referrers_at(made.target, amd) == {of_a_part}
    assert referrers_at(made.target, second) == {of_the_second}
    assert not made.plan().changes
    assert made.target.tags["app"].keys() >= {"1.0", "plain"}
    assert made.target.tags["app"]["1.0"] == index
    writes = made.target.count("PUT ") + made.target.count("POST ")
    assert made.apply().converged
    assert made.target.count("PUT ") + made.target.count("POST ") == writes


@pytest.mark.parametrize("at_target", [True, False])
def test_pruning_keeps_what_is_attached_to_what_stays(world, at_target):
    made = world(ServedRegistry(), ServedRegistry(referrers_api=at_target), tags=EVERY, prune=Prune())
    one = made.source.image("app", "1.0", b"one")
    sbom = made.source.referrer("app", one, b"sbom")
    made.source.referrer("app", sbom, b"signature of the sbom")
    cosign = made.source.image("app", f"{referrers_tag(one)}.sbom", b"an sbom")
    made.source.image("app", f"{referrers_tag(cosign)}.sig", b"of the sbom")
    assert made.apply().converged
    ours = made.target.referrer("app", one, b"ours")
    made.target.referrer("app", ours, b"about ours")
    made.target.image("app", "stray", b"stray")
    assert fields(made.plan()).keys() == {"tags[stray]"}
    assert made.apply().converged
    assert referrers_at(made.target, sbom)
    assert referrers_at(made.target, ours)
    assert {f"{referrers_tag(one)}.sbom", f"{referrers_tag(cosign)}.sig"} <= made.target.tags["app"].keys()


def test_what_a_list_names_and_is_no_more_is_left_out(world):
    made = world()
    one = made.source.image("app", "1.0", b"one")
    gone, kept = made.source.referrer("app", one, b"gone"), made.source.referrer("app", one, b"kept")
    del made.source.manifests["app"][gone]
    assert any("1 that the source lists" in note for note in made.plan().notes)
    assert made.apply().converged
    assert referrers_at(made.target, one) == {kept}
    assert not made.plan().changes


def test_lists_that_refer_in_a_ring_come_to_an_end(world):
    made = world()
    one, two = made.source.image("app", "1.0", b"one"), made.source.image("app", "", b"two")
    for subject, other in ((one, two), (two, one)):
        entries = [made.source.descriptor("app", other)]
        made.source.put(
            "app", {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}, referrers_tag(subject)
        )
    assert made.apply().converged
    assert not made.plan().changes


def test_more_referrers_than_anybody_attaches_are_refused(world):
    made = world(ServedRegistry(referrers_api=True))
    made.source.image("app", "1.0", b"one")
    entries = [
        {"mediaType": media.OCI_MANIFEST, "digest": Digest.of(f"{number}".encode()), "size": 2}
        for number in range(1001)
    ]
    body = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}).encode()
    made.source.on("GET /v2/app/referrers/", Step(200, body, {"Content-Type": media.OCI_INDEX}, times=9))
    assert "what refers to the tags to copy is unknown: more than 1000 manifests refer to" in said(made.plan())


def test_a_tag_in_the_place_of_a_list_that_is_none_is_not_overwritten(world):
    made = world(ServedRegistry(referrers_api=True))
    one = made.source.image("app", "1.0", b"one")
    assert made.apply().converged
    made.source.referrer("app", one, b"signature")
    theirs = made.target.image("app", referrers_tag(one), b"somebody's")
    report = made.apply()
    assert "is no list of referrers" in str(report.failures[0].error)
    assert made.target.tags["app"][referrers_tag(one)] == theirs


def test_a_server_with_a_page_for_people_keeps_no_lists(world):
    made = world()
    made.source.image("app", "1.0", b"one")
    page = Step(200, b"<html>", {"Content-Type": "text/html; charset=utf-8"}, times=9)
    made.source.on("GET /v2/app/referrers/", page)
    assert made.apply().converged


def test_the_bytes_are_those_that_the_target_lacks(world):
    made = world()
    made.source.image("app", "1.0", bytes(5000), b"one")
    made.apply()
    made.source.image("app", "1.1", bytes(5000), b"more")
    foreign = made.source.blob("app", bytes(9000)) | {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    }
    made.source.image("app", "1.2", b"two", annotations={"of": "foreign"})
    made.source.put("app", made.source.document("app", made.source.tags["app"]["1.2"]) | {"layers": [foreign]}, "1.2")
    (change,) = made.plan().changes
    assert (change.cost.pull_bytes, change.cost.push_bytes) == (4, 4)


def test_within_one_registry_fewer_bytes_travel_than_the_plan_says(world):
    registry = ServedRegistry()
    made = world(registry, registry)
    made.source.image("source", "1.0", bytes(5000))
    stack = made.stack()
    stack.resources.popitem()
    stack.sync(f"{registry.host}/app", f"{registry.host}/source")
    plan = made.plan(stack)
    assert any("fewer bytes than it says travel where" in note for note in plan.notes)
    assert made.apply(stack).converged
    assert registry.count("GET /v2/source/blobs/") == 0


def test_a_source_tag_that_moves_meanwhile_is_copied_as_it_was_planned_and_then_moves(world):
    made = world()
    before = made.source.image("app", "1.0", b"before")
    after = made.source.image("app", "", b"after")
    move = Step(404, before=lambda: made.source.tags["app"].update({"1.0": after}))
    made.target.on("HEAD /v2/app/blobs/", move)
    first = made.session(asked=True).one_pass()
    assert [result.status for result in first.performed][-1] == "done"
    assert made.target.tags["app"]["1.0"] == before
    assert fields(made.plan()) == {"tags[1.0]": (before, after)}
    assert made.apply().converged
    assert made.target.tags["app"]["1.0"] == after


def test_an_index_without_one_of_its_parts_is_not_copied_and_the_rest_is(world):
    made = world()
    amd, arm = made.source.image("app", "", b"amd"), made.source.image("app", "", b"arm")
    made.source.index("app", "1.0", {"amd64": amd, "arm64": arm})
    made.source.image("app", "1.1", b"good")
    del made.source.manifests["app"][arm]
    report = made.apply()
    assert (report.exit_code, len(report.failures)) == (4, 1)
    assert f"no manifest {arm} of app there (404" in str(report.failures[0].error)
    assert made.target.tags["app"].keys() == {"1.1"}
    assert made.target.uploads == {}


def test_an_image_of_one_platform_is_copied_as_it_is(world):
    made = world(platforms=(Platform("linux", "arm64"),))
    made.source.image("app", "1.0", b"for amd64")
    assert made.apply().converged
    assert made.target.tags == made.source.tags


def test_schema_1_is_told_by_its_tag(world):
    made = world()
    made.source.put("app", {"schemaVersion": 1, "fsLayers": [], "mediaType": media.DOCKER_SCHEMA1_SIGNED}, "old")
    made.source.image("app", "new", b"new")
    report = made.apply()
    assert report.exit_code == 4
    assert "old: Docker schema 1 manifests are unsupported" in said(report.last)
    assert made.target.tags["app"].keys() == {"new"}


@pytest.mark.parametrize("listed", [{"tags": None}, {"tags": []}, {}])
def test_a_source_that_has_nothing_suddenly_deletes_nothing(world, listed):
    made = world(tags=EVERY, prune=Prune())
    made.source.image("app", "1.0", b"one")
    made.target.image("app", "1.0", b"one")
    made.source.on("GET /v2/app/tags/list", Step(200, json.dumps(listed).encode(), times=9))
    with pytest.raises(RefusedError, match=r"would delete 1 tag of the 1 at its target: 1\.0"):
        made.apply()
    daemon = made.one_pass()
    assert "would delete 1 tag" in said(daemon.plan)
    assert made.target.tags["app"].keys() == {"1.0"}


def test_who_protects_and_prunes_a_tag_keeps_it(world):
    made = world(tags=TagSelection(names=("1.0",)), prune=Prune(protect=("old.*",)))
    made.source.image("app", "1.0", b"one")
    for tag in ("old-1", "older", "new-1"):
        made.target.image("app", tag, tag.encode())
    assert fields(made.plan()).keys() == {"tags[1.0]", "tags[new-1]"}
    assert made.apply().converged
    assert made.target.tags["app"].keys() == {"1.0", "old-1", "older"}


@pytest.mark.parametrize("status", [400, 409, 403])
def test_a_tag_that_its_registry_lets_nobody_move(world, status):
    made = world(None, ServedRegistry(immutable=lambda tag: status if tag == "1.0" else 0))
    made.source.image("app", "1.0", b"one")
    made.apply()
    made.source.image("app", "1.0", b"two")
    made.source.image("app", "1.1", b"three")
    report = made.apply()
    assert report.exit_code == 4
    error = report.failures[0].error
    assert f"PUT manifest 1.0 of {made.target.host}/app: {status} TAG_IMMUTABLE" in str(error)
    assert "lets nobody move this tag" in error.hint
    assert made.target.tags["app"].keys() == {"1.0", "1.1"}
    assert made.target.uploads == {}


def test_two_hosts_keep_one_target(world, tmp_path):
    here = world()
    for number in range(12):
        here.source.image("app", f"v{number}", b"shared" * 1000, f"{number}".encode())
    with ThreadPoolExecutor(2) as pool, EmbeddedEngine(tmp_path / "other") as engine:
        there = copy(here)
        there.engine = engine
        reports = list(pool.map(lambda each: each.apply(), (here, there)))
        assert [report.converged for report in reports] == [True, True]
        assert not here.plan().changes
        assert not there.plan().changes
    assert here.target.tags == here.source.tags


def test_a_target_tag_that_somebody_deletes_meanwhile_is_no_failure(world):
    made = world(tags=TagSelection(names=("1.0",)), prune=Prune())
    made.source.image("app", "1.0", b"one")
    made.target.image("app", "old", b"old")
    session = made.session(asked=True)
    first = made.plan()
    del made.target.tags["app"]["old"]
    report = session.converge(first)
    assert report.converged
    assert made.target.tags["app"].keys() == {"1.0"}


def test_each_repository_of_a_host_gets_its_own_login(tmp_path):
    registry = ServedRegistry(logins={"source": "reader:one", "app": "writer:two"}, mounts=False)
    auth = tmp_path / "auth.json"
    with SyncWorld(tmp_path, registry, registry, auth_files=(auth,)) as made:
        places = {"source": "reader:one", "app": "writer:two"}
        entries = {
            f"{registry.host}/{name}": {"auth": base64.b64encode(login.encode()).decode()}
            for name, login in places.items()
        }
        auth.write_text(json.dumps({"auths": entries}))
        made.source.image("source", "1.0", b"layer")
        stack = made.stack()
        stack.resources.popitem()
        stack.sync(f"{registry.host}/app", f"{registry.host}/source")
        report = made.apply(stack)
        assert report.converged, [str(failure.error) for failure in report.failures] + [said(report.last)]
        assert registry.tags["app"] == registry.tags["source"]


def test_a_rate_limit_is_waited_for_once_and_not_by_every_tag(world):
    made = world()
    for number in range(40):
        made.source.image("app", f"v{number}", b"layer")
    busy = Step(429, headers={"Retry-After": "0"}, times=1000)
    made.source.on("HEAD /v2/app/manifests/", busy)
    plan = made.plan()
    assert "rate limit: HEAD tag" in said(plan)
    assert "(and 39 more tags)" in said(plan)
    assert made.source.count("HEAD ") <= 2 * 8 * 4
    assert set(made.notes) == {f"waiting 0 s: rate limit of {made.source.host}"}


def test_a_rate_limit_at_the_target_ends_the_copies(world):
    made = world()
    for number in range(40):
        made.source.image("app", f"v{number}", b"layer")
    made.target.on("POST ", Step(429, headers={"Retry-After": "0"}, times=1000))
    report = made.apply()
    assert len(report.failures) == 40
    assert all(isinstance(failure.error, RateLimitError) for failure in report.failures)
    assert "not tried after" in str(report.failures[-1].error)
    assert made.target.count("POST ") <= 4 * 6


def test_a_sync_that_was_refused_is_remembered_and_not_shown(world):
    made = world(tags=TagSelection(names=("1.0",)), prune=Prune())
    made.source.image("app", "1.0", b"one")
    for number in range(6):
        made.target.image("app", f"old-{number}", f"{number}".encode())
    with pytest.raises(RefusedError):
        made.session(asked=True).one_pass()
    assert made.address in made.engine.view().state.syncs.all()
    assert made.address not in made.engine.observe(Interest()).resources


def test_a_saved_plan_is_for_the_referrers_that_it_shows(world):
    made = world(ServedRegistry(referrers_api=True), ServedRegistry(referrers_api=True))
    one = made.source.image("app", "1.0", b"one")
    made.apply()
    made.source.referrer("app", one, b"signature")
    plan, desired = made.plan(), prepare(made.stack().desired(), made.engine)
    observed = made.engine.observe(Interest())
    saved = load(save(plan, desired, observed, sources={}, options=PlanOptions(asked=True)))
    assert same_work(saved, made.plan()) == []
    made.source.referrer("app", one, b"another")
    assert same_work(saved, made.plan()) == [f"planned differently: attach {made.address}:1.0"]


def test_what_refers_to_what_a_tag_is_about_is_followed_too(world):
    made = world(ServedRegistry(referrers_api=True), ServedRegistry(referrers_api=True))
    one = made.source.image("app", "1.0", b"one")
    sbom = made.source.image("app", f"{referrers_tag(one)}.sbom", b"an sbom")
    first = made.source.referrer("app", sbom, b"first")
    assert made.apply().converged
    second = made.source.referrer("app", sbom, b"second")
    assert fields(made.plan()) == {"referrers[1.0][0]": (None, second)}
    assert made.apply().converged
    assert made.target.listed("app", sbom) == {first, second}


def test_who_may_not_ask_for_referrers_is_told_how_to_do_without(world):
    made = world()
    made.source.image("app", "1.0", b"one")
    made.source.on("GET /v2/app/referrers/", Step(403, times=9))
    assert "with `referrers: false` nobody is asked" in said(made.plan())
    made.fields["referrers"] = False
    assert made.apply().converged


@pytest.mark.parametrize("api", [False, True])
def test_two_hundred_tags_cost_a_head_each_on_either_side(world, api):
    made = world(ServedRegistry(referrers_api=api), ServedRegistry(referrers_api=api))
    for number in range(200):
        made.source.image("app", f"1.{number}", b"shared", f"{number % 20}".encode())
    assert made.apply().converged
    assert made.target.tags == made.source.tags
    # The shared layer, twenty others and the one config of them all; and the manifests that the tags come to.
    assert made.source.count("GET /v2/app/blobs/") == 22
    assert made.source.count("GET /v2/app/manifests/") == 20
    before = [registry.count(method) for registry in (made.source, made.target) for method in METHODS]
    assert not made.plan().changes
    after = [registry.count(method) for registry in (made.source, made.target) for method in METHODS]
    # Two lists, and what refers to the twenty images: or that nobody keeps a list of that.
    assert [new - old for old, new in zip(before, after, strict=True)] == [200, 21 if api else 2, 0, 0, 200, 1, 0, 0]
