"""Which servers are worth asking, and how often they may be."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from reconciler.clock import ManualClock
from reconciler.errors import AuthError, IntegrityError, NotFoundError, RegistryError
from reconciler.oci.digest import Digest
from reconciler.registry.failure import LimitedError, TemporaryError, UnreachableError
from reconciler.registry.fallback import Patience
from reconciler.registry.health import EndpointHealth, Health
from reconciler.registry.hosts import MirrorEndpoint, RegistryHosts
from reconciler.registry.quota import Quota, read_quota
from reconciler.registry.retry import RetryPolicy
from reconciler.testing.scripted_registry import FOREVER, Step

from .conftest import MemorySink, layer, manifest, served

MIRROR, ORIGIN = RegistryHosts(mirrors={"r.io": (MirrorEndpoint("https://m"),)}).for_content("r.io")
BLOB = b"blob" * 1000
BLOBS = "GET /v2/app/blobs/"
DATA = manifest()


def test_a_failing_mirror_rests_longer_each_time_until_it_serves():
    clock = ManualClock()
    health = Health(clock)
    for seconds in (30, 60, 120, 240, 480, 600, 600):
        health.failed(MIRROR, TemporaryError("503"))
        (shown,) = health.shown()
        assert (shown.state, shown.last_error, shown.since) == ("resting", "503", ManualClock().now())
        assert shown.next_try == clock.now() + timedelta(seconds=seconds)
        clock.advance(seconds - 1)
        assert health.is_resting(MIRROR)
        clock.advance(1)
        assert not health.is_resting(MIRROR)
    health.served(MIRROR)
    assert health.shown()[0].state == "good"
    health.failed(MIRROR, TemporaryError("503"))
    assert health.shown()[0].next_try == clock.now() + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("endpoint", "error", "rests"),
    [
        (MIRROR, UnreachableError("x"), True),
        (MIRROR, IntegrityError("x"), True),
        (MIRROR, NotFoundError("x"), False),
        (MIRROR, AuthError("x"), False),
        (ORIGIN, UnreachableError("x"), True),
        (ORIGIN, TemporaryError("x"), False),
        (ORIGIN, IntegrityError("x"), False),
    ],
)
def test_what_counts_as_failing(endpoint, error, rests):
    health = Health(ManualClock())
    health.failed(endpoint, error)
    assert health.is_resting(endpoint) is rests


def test_failures_of_many_threads_at_once_are_one():
    health = Health(ManualClock())
    for number in range(20):
        health.failed(MIRROR, TemporaryError(f"manifest {number}: 503"))
    assert health.shown()[0].next_try == ManualClock().now() + timedelta(seconds=30)
    assert (health.shown()[0].failures, health.shown()[0].last_error) == (1, "manifest 0: 503")


def test_a_mirror_that_asks_for_time_gets_it():
    health = Health(ManualClock())
    health.failed(MIRROR, TemporaryError("429", retry_after=300))
    assert health.shown()[0].next_try == ManualClock().now() + timedelta(seconds=300)
    health.failed(MIRROR, TemporaryError("429", retry_after=9000))
    assert health.shown()[0].next_try == ManualClock().now() + timedelta(seconds=600), "but not for ever"


def test_a_failing_mirror_is_skipped_for_a_while_and_tried_again(harness, registry, mirror, ref):
    mirror.on(BLOBS, Step(503), Step(200, BLOB))
    registry.on(BLOBS, Step(200, BLOB, times=5))
    client = harness.client(registry, mirrors={registry.host: (MirrorEndpoint(mirror.url),)})
    for _ in range(5):
        assert client.blob(ref("app:1"), layer(BLOB), MemorySink()) == registry.host
    assert mirror.count("") == 1
    assert [(health.name, health.state) for health in client.health()] == sorted(
        [(mirror.url, "resting"), (registry.host, "good")]
    )
    harness.clock.advance(30)
    assert client.blob(ref("app:1"), layer(BLOB), MemorySink()) == mirror.url
    assert {health.state for health in client.health()} == {"good"}


def test_a_resting_mirror_takes_no_patience_from_the_origin(harness, registry, mirror, ref):
    """The mirror comes last, but the origin is still worth as many attempts as if there were none."""
    mirror.on(BLOBS, Step(503))
    registry.on(BLOBS, Step(200, BLOB), Step(503, times=3), Step(200, BLOB))
    client = harness.client(registry, mirrors={registry.host: (MirrorEndpoint(mirror.url),)})
    client.blob(ref("app:1"), layer(BLOB), MemorySink())
    assert client.blob(ref("app:1"), layer(BLOB), MemorySink()) == registry.host
    assert mirror.count("") == 1


def test_a_half_full_mirror_takes_no_patience_from_the_origin(harness, registry, mirror, ref):
    """Tags: the origin stumbles three times, the mirror has not got it, the origin is asked to the end."""
    head = "HEAD /v2/app/manifests/1"
    registry.on(head, Step(503, times=3), served(DATA))
    mirror.on(head, Step(404))
    client = harness.client(registry, mirrors={registry.host: (MirrorEndpoint(mirror.url),)})
    assert client.resolve(ref("app:1")).descriptor.digest == Digest.of(DATA)


def test_a_stale_mirror_does_not_speak_for_an_origin_that_stumbled(harness, registry, mirror, ref):
    head = "HEAD /v2/app/manifests/1"
    registry.on(head, Step(502), served(DATA))
    client = harness.client(registry, mirrors={registry.host: (MirrorEndpoint(mirror.url),)})
    assert client.resolve(ref("app:1")).descriptor.digest == Digest.of(DATA)
    assert mirror.asked == []


NOW = ManualClock().now()


@pytest.mark.parametrize(
    ("headers", "remaining", "limit", "seconds"),
    [
        ({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}, 76, 100, 21600),
        ({"ratelimit-remaining": "3", "ratelimit-reset": "50"}, 3, None, 50),
        ({"x-ratelimit-limit": "60", "x-ratelimit-remaining": "0"}, 0, 60, 3600),
        ({"ratelimit": "limit=100, remaining=50, reset=5"}, 50, 100, 5),
        ({"ratelimit": '"default";r=50;t=30'}, 50, None, 30),
    ],
)
def test_what_servers_say_of_quotas(headers, remaining, limit, seconds):
    assert read_quota("r", headers, NOW) == Quota("r", remaining, limit, NOW, NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize("value", ["", "many", "-5", "1e9", "٣", "9" * 50, ";w=5"])
def test_what_is_no_quota(value):
    assert read_quota("r", {"ratelimit-remaining": value, "ratelimit": value}, NOW) is None


def test_a_quota_is_shown_and_its_floor_kept(harness, registry, ref):
    def said(left: int) -> dict[str, str]:
        return {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": f"{left};w=21600"}

    registry.on("HEAD ", Step(200, DATA, {**served(DATA).headers, **said(20)}, times=FOREVER))
    registry.on("GET ", Step(200, DATA, {**served(DATA).headers, **said(10)}, times=FOREVER))
    client = harness.client(registry, quota_floor=10)
    by_digest = ref(f"app@{Digest.of(DATA)}")
    client.tag_digest(ref("app:1"))
    client.manifest(by_digest)
    assert [(quota.remaining, quota.limit) for quota in client.quotas()] == [(10, 100)]
    with pytest.raises(RegistryError, match="10 of 100 requests are left, and 10 are to stay unused") as caught:
        client.manifest(by_digest)
    assert "2026-01-01T06:00:00Z" in caught.value.hint
    assert registry.count("GET ") == 1
    client.tag_digest(ref("app:1"))
    assert registry.count("HEAD ") == 2, "a check costs nothing"
    harness.clock.advance(21600)
    assert client.quotas() == ()
    client.manifest(by_digest)


@pytest.mark.parametrize(
    ("remaining", "limit", "highest", "floor"),
    [
        (100, 1000, 0, 20),
        (100, 200, 0, 20),
        (100, 100, 0, 10),
        (15, 15, 0, 1),  # a small quota is read all the same
        (5, 5, 0, 0),
        (15, None, 15, 1),
        (15, None, 500, 20),
        (500, None, 0, 20),
    ],
)
def test_the_floor_is_a_tenth_of_a_small_quota(remaining, limit, highest, floor):
    assert Quota("r", remaining, limit, NOW, NOW).floor(20, highest) == floor


def test_a_quota_below_the_floor_is_still_used(harness, registry, ref):
    for left in (14, 2, 1):
        said = {"X-RateLimit-Limit": "15", "X-RateLimit-Remaining": str(left)}
        registry.on("GET ", Step(200, DATA, {**served(DATA).headers, **said}))
    client = harness.client(registry, quota_floor=20)
    by_digest = ref(f"app@{Digest.of(DATA)}")
    for _ in range(3):
        client.manifest(by_digest)
    with pytest.raises(RegistryError, match="1 of 15 requests are left, and 1 are to stay unused"):
        client.manifest(by_digest)


def carried(health: Health, clock: ManualClock) -> Health:
    """What another process makes of what this one would keep."""
    return Health(clock, health.news())


def test_another_process_leaves_a_failing_mirror_alone_until_its_time_is_over():
    clock = ManualClock()
    health = Health(clock)
    health.failed(MIRROR, TemporaryError("503"))
    clock.advance(10)
    other = carried(health, clock)
    assert other.is_resting(MIRROR)
    assert other.shown()[0].rest(clock.now()) == 20
    clock.advance(20)
    assert not other.is_resting(MIRROR)
    other.failed(MIRROR, TemporaryError("503"))
    (shown,) = other.news()
    assert (shown.failures, shown.since) == (2, ManualClock().now())
    assert shown.next_try == clock.now() + timedelta(seconds=60), "it goes on where the other was"


@pytest.mark.parametrize("jump", [-timedelta(days=400), -timedelta(seconds=1), timedelta(days=400)])
def test_no_jump_of_the_wall_clock_lets_a_mirror_rest_for_ever(jump):
    health = Health(ManualClock())
    health.failed(MIRROR, TemporaryError("503"))
    other = carried(health, ManualClock(ManualClock().now() + jump))
    assert not other.is_resting(MIRROR)
    assert other.shown()[0].rest(ManualClock().now() + jump) == 0


def test_no_rest_that_was_kept_is_longer_than_the_longest():
    now = ManualClock().now()
    strange = EndpointHealth(MIRROR.name, "resting", now, 3, now, now + timedelta(days=9), "x")
    clock = ManualClock()
    health = Health(clock, [strange])
    assert strange.rest(now) == 600
    clock.advance(600)
    assert not health.is_resting(MIRROR)


def test_only_changes_of_mirrors_are_news():
    health = Health(ManualClock())
    health.served(ORIGIN)
    health.failed(ORIGIN, UnreachableError("x"))
    assert not health.has_news
    health.served(MIRROR)
    assert [shown.state for shown in health.news()] == ["good"]
    for _ in range(3):
        health.served(MIRROR)
        health.reached(MIRROR)
    assert (health.has_news, health.news()) == (False, ())
    assert not Health(ManualClock(), health.shown()).has_news, "what is known is no news"


def test_a_mirror_that_is_reached_again_is_not_shown_as_failing():
    health = Health(ManualClock())
    health.failed(MIRROR, UnreachableError("x"))
    health.reached(MIRROR)
    assert not health.is_resting(MIRROR)
    assert (health.shown()[0].state, health.shown()[0].failures) == ("good", 0)
    health.failed(MIRROR, TemporaryError("503"))
    assert health.shown()[0].failures == 2, "to answer is not to serve"


def test_p26_threads_that_wait_for_the_same_tell_it_once():
    together = threading.Barrier(8)
    told: list[str] = []
    patience = Patience(Health(ManualClock()), RetryPolicy(sleep=lambda _seconds: together.wait(5)), told.append)
    limit = LimitedError("429", server="r.example.com", retry_after=7)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            list(pool.map(lambda _: patience.pause(1, limit), range(8)))
    assert told == ["waiting 7 s: rate limit of r.example.com"] * 2
