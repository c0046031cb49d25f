"""What an engine found, as one value. Times are seconds since the epoch; ``now`` is when the engine looked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.facts import RemoteTag, Unknown
from reconciler.model.resources import Sync
from reconciler.oci.digest import Digest
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class Drift:
    """Something live that is not as it was made: a path, what was expected, and what is there."""

    path: str
    expected: str
    actual: str


@dataclass(frozen=True, slots=True)
class ObservedFact:
    """A recorded fact of the host: a registry, a mirror, a retention rule. ``stacks`` are those that declare it."""

    form: Form
    stacks: frozenset[str]


@dataclass(frozen=True, slots=True)
class ObservedNetwork:
    """A network as recorded, and how its kernel side differs from that."""

    form: Form
    drift: tuple[Drift, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedVolume:
    """A volume as recorded. ``bytes`` None was not measured."""

    form: Form
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CommitKey:
    """What a commit was taken of: another key means that committing again may give another image."""

    container_id: str
    run: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ObservedImage:
    """A recorded image entry. ``complete`` is false when a blob or a layer of it is missing on disk.

    ``picked`` tells, for an entry that tracks a repository, which tag the last pass picked and why.
    """

    form: Form
    digest: Digest
    complete: bool = True
    index: Digest | None = None
    commit: CommitKey | None = None
    picked: str = ""


@dataclass(frozen=True, slots=True)
class ObservedTag:
    """A tag. ``local`` is None when this host does not have it; ``stack`` is the one that owns the local tag.

    ``remote`` is None unless the tag was asked for at its registry; ``pushed`` is what this root last wrote there, and
    ``repaired`` how often it has put the tag back since its image last changed.
    """

    local: Digest | None
    stack: str = ""
    form: Form = field(default_factory=dict)
    remote: RemoteTag | None = None
    pushed: Digest | None = None
    repaired: int = 0


@dataclass(frozen=True, slots=True)
class SyncTag:
    """A tag that a sync chose: its digest at the ``source``, and the one ``wanted`` at the target (another where an
    index is narrowed to platforms)."""

    source: Digest
    wanted: Digest


@dataclass(frozen=True, slots=True)
class SyncView:
    """What the two registries of a sync said.

    ``chosen`` are the tags to have, ``failed`` those chosen that nobody could tell about. ``target`` are the tags
    asked for there: of a sync that prunes, all that there are. ``nested`` are manifests that tags to keep consist of:
    asked for only where something may have to go. ``referrers`` are, by tag, the manifests that refer at the source to
    the image or a part of it, and at the target do not. ``unclear`` tells, by what was asked, what nobody could tell.
    ``young`` are tags that only lack age: they are not chosen yet, and what the target has under them stays. ``bytes``
    is how much there is to copy at most, None when unknown. ``seen`` are the digests of the source's tags that were
    looked at for their age, ``parts`` what indexes that were looked into consist of.
    """

    chosen: Mapping[str, SyncTag] = field(default_factory=dict)
    failed: Mapping[str, Unknown] = field(default_factory=dict)
    target: Mapping[str, RemoteTag] = field(default_factory=dict)
    nested: frozenset[Digest] = frozenset()
    referrers: Mapping[str, tuple[Digest, ...]] = field(default_factory=dict)
    unclear: Mapping[str, Unknown] = field(default_factory=dict)
    young: frozenset[str] = frozenset()
    bytes: int | None = None
    seen: Mapping[str, Digest] = field(default_factory=dict)
    parts: Mapping[Digest, tuple[Digest, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedSync:
    """A sync as recorded by ``stack`` ("" when it is not), and what its registries said.

    ``view`` is None when they were not asked: it was not asked for, or is not due. ``checked_at`` is when they last
    were, ``counted`` how many tags were chosen then, ``due_at`` when a daemon asks again, ``error`` what failed last.
    """

    form: Form = field(default_factory=dict)
    stack: str = ""
    view: SyncView | Unknown | None = None
    checked_at: float | None = None
    due_at: float | None = None
    counted: int = 0
    error: str = ""


Status = Literal["created", "running", "paused", "exited", "unmonitored"]


@dataclass(frozen=True, slots=True)
class ObservedContainer:
    """One container of a stack, running or not.

    ``form`` is the canonical form it was made from, with the image's digest under ``image``. ``exit_code`` is None
    while it runs, and when nobody could tell. ``run`` counts its starts; ``streak`` the restarts since it last ran
    long enough (model/policy.py). ``fingerprint`` and ``discarded_bytes``, the size of the writable layer, are None
    unless they were asked for: they take reading all its files.
    """

    id: str
    address: Address
    form: Form
    status: Status
    image: Digest
    exit_code: int | None = None
    oom: bool = False
    run: int = 0
    streak: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    discarded_bytes: int | None = None
    fingerprint: str | None = None
    drift: tuple[Drift, ...] = ()

    @property
    def alive(self) -> bool:
        return self.status in ("running", "paused", "unmonitored")

    @property
    def succeeded(self) -> bool:
        return self.status == "exited" and self.exit_code == 0


ObservedResource = (
    ObservedFact | ObservedNetwork | ObservedVolume | ObservedImage | ObservedTag | ObservedSync | ObservedContainer
)


@dataclass(frozen=True, slots=True)
class Observed:
    """The resources this root holds for the stacks asked about, and what outside facts were asked for.

    ``leftovers`` are containers that an interrupted replacement left without a name. ``blobs`` are those of the
    blobs asked about that are on disk. ``source_stacks`` are the stacks that the source asked about held at its last
    apply. ``other_stacks`` are facts, tags and host ports of stacks that were not asked about: they may conflict.
    """

    root_id: str
    now: float
    resources: Mapping[Address, ObservedResource] = field(default_factory=dict)
    leftovers: tuple[ObservedContainer, ...] = ()
    blobs: frozenset[Digest] = frozenset()
    source_stacks: frozenset[str] = frozenset()
    other_stacks: Mapping[Address, ObservedFact | ObservedTag | ObservedSync | ObservedContainer] = field(
        default_factory=dict
    )
    forwarding: Literal["on", "off", "leave"] = "on"
    """Whether the kernel forwards packets; ``leave`` when it does not and the host's policy forbids changing it."""


@dataclass(frozen=True, slots=True)
class Interest:
    """What an observation is asked for. ``stacks`` None means everything, as for a listing.

    The registries of ``syncs`` are asked; with ``only_due``, of those whose interval is over or that changed."""

    stacks: frozenset[str] | None = None
    source: str = ""
    addresses: frozenset[Address] = frozenset()
    remote_tags: frozenset[Address] = frozenset()
    syncs: Mapping[Address, Sync] = field(default_factory=dict)
    only_due: bool = False
    fingerprints: frozenset[Address] = frozenset()
    sizes: frozenset[Address] = frozenset()
    blobs: frozenset[Digest] = frozenset()
