"""Actions: what an engine can be asked to do, one frozen type per kind.

Every action is idempotent: performing it again after it was done, or half done, ends in the same state. ``verb`` is
the word shown to people; ``address`` the resource it is about.
"""

from __future__ import annotations

from typing import ClassVar

from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.desired import Pin
from reconciler.model.observed import CommitKey
from reconciler.model.resources import (
    Commit,
    Container,
    Import,
    Load,
    Mirror,
    Network,
    Pull,
    Registry,
    Retention,
    Sync,
    Tag,
    Volume,
)
from reconciler.oci.digest import Digest
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class _Action:
    """What all actions have: the resource they are about."""

    address: Address
    verb: ClassVar[str] = ""

    @property
    def step_id(self) -> str:
        """Names the step in a plan: the same verb on the same address is the same step in every plan."""
        return f"{self.verb} {self.address}"


@dataclass(frozen=True, slots=True)
class SetFact(_Action):
    """Records a registry, the mirrors of one, or a retention rule, and which stacks declare it."""

    verb = "set"
    fact: Registry | Mirror | Retention
    form: Form
    stacks: frozenset[str]


@dataclass(frozen=True, slots=True)
class DropFact(_Action):
    """Forgets a fact of the host; where other stacks are ``remaining`` that declare it, only the others' claim."""

    verb = "drop"
    remaining: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class EnsureNetwork(_Action):
    """Makes the network, or puts back what is missing of it."""

    verb = "ensure"
    network: Network
    form: Form


@dataclass(frozen=True, slots=True)
class RemoveNetwork(_Action):
    """Takes a network away; containers that are not running may still refer to it."""

    verb = "remove"


@dataclass(frozen=True, slots=True)
class EnsureVolume(_Action):
    """Makes the volume, takes up one that had left its stack, or changes its labels. Data is never touched."""

    verb = "ensure"
    volume: Volume
    form: Form


@dataclass(frozen=True, slots=True)
class ReleaseVolume(_Action):
    """The volume leaves the stack. Its data stays unless ``delete_data``."""

    verb = "release"
    delete_data: bool = False


@dataclass(frozen=True, slots=True)
class PullImage(_Action):
    """Brings exactly ``pin`` onto the disk and records it under the address."""

    verb = "pull"
    pull: Pull
    pin: Pin
    form: Form


@dataclass(frozen=True, slots=True)
class ImportImage(_Action):
    """Makes an image of a root filesystem archive."""

    verb = "import"
    source: Import
    form: Form


@dataclass(frozen=True, slots=True)
class LoadImage(_Action):
    """Takes an image out of an archive."""

    verb = "load"
    source: Load
    form: Form


@dataclass(frozen=True, slots=True)
class CommitImage(_Action):
    """Makes an image of a container's writable layer. Refused when the container no longer has ``key``."""

    verb = "commit"
    commit: Commit
    key: CommitKey | None
    form: Form


@dataclass(frozen=True, slots=True)
class ReleaseImage(_Action):
    """The entry leaves the stack; gc takes the bytes that nothing else needs."""

    verb = "release"


@dataclass(frozen=True, slots=True)
class SetTag(_Action):
    """Points a local tag at an image; ``digest`` None while it is known only after apply."""

    verb = "tag"
    tag: Tag
    digest: Digest | None
    form: Form
    stack: str


@dataclass(frozen=True, slots=True)
class DropTag(_Action):
    """Removes a local tag. The tag at the registry stays."""

    verb = "untag"


@dataclass(frozen=True, slots=True)
class PushTag(_Action):
    """Pushes the image and writes the tag at its registry, which must still answer ``expected`` (None: absent).

    ``repair`` says that the tag had been moved by somebody else since this root wrote it.
    """

    verb = "push"
    tag: Tag
    digest: Digest | None
    expected: Digest | None
    repair: bool = False


@dataclass(frozen=True, slots=True)
class SetSync(_Action):
    """Records a sync as it is declared, and the stack that declares it."""

    verb = "set"
    form: Form
    stack: str


@dataclass(frozen=True, slots=True)
class DropSync(_Action):
    """Forgets a sync. Both repositories stay as they are."""

    verb = "drop"


@dataclass(frozen=True, slots=True)
class CopyTag(_Action):
    """Copies what ``source`` is at the sync's source, as ``wanted``, and then writes ``tag`` at its target.

    ``referrers`` are those of what refers to it that were seen to be missing; all there are go along.
    """

    verb = "copy"
    sync: Sync
    tag: str
    source: Digest
    wanted: Digest
    referrers: tuple[Digest, ...] = ()

    @property
    def step_id(self) -> str:
        return f"{self.verb} {self.address}:{self.tag}"


@dataclass(frozen=True, slots=True)
class CopyReferrers(_Action):
    """Copies what refers to ``source`` and to its parts at the sync's source, where ``tag`` is at its target.

    ``referrers`` are as those of a ``CopyTag``.
    """

    verb = "attach"
    sync: Sync
    tag: str
    source: Digest
    wanted: Digest
    referrers: tuple[Digest, ...] = ()

    @property
    def step_id(self) -> str:
        return f"{self.verb} {self.address}:{self.tag}"


@dataclass(frozen=True, slots=True)
class PruneTag(_Action):
    """Deletes ``digest`` at the sync's target, and so ``tag``, which must still be that."""

    verb = "prune"
    sync: Sync
    tag: str
    digest: Digest

    @property
    def step_id(self) -> str:
        return f"{self.verb} {self.address}:{self.tag}"


@dataclass(frozen=True, slots=True)
class CreateContainer(_Action):
    """Makes a container ready to start, beside the one it ``replaces`` (an id, or empty) until that is removed."""

    verb = "create"
    container: Container
    form: Form
    image: Digest | None
    replaces: str = ""


@dataclass(frozen=True, slots=True)
class StartContainer(_Action):
    """Starts ``container_id``, or the container last created under this address when that is empty."""

    verb = "start"
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class StopContainer(_Action):
    """Stops a container by its own signal and grace period."""

    verb = "stop"
    container_id: str


@dataclass(frozen=True, slots=True)
class RemoveContainer(_Action):
    """Stops ``container_id`` if it runs, and removes it with its writable layer."""

    verb = "remove"
    container_id: str

    @property
    def step_id(self) -> str:
        return f"{self.verb} {self.address} {self.container_id[:12]}"


@dataclass(frozen=True, slots=True)
class UpdateContainer(_Action):
    """Changes in place what can be changed without a new container, and stores the new form."""

    verb = "update"
    container_id: str
    container: Container
    form: Form


Action = (
    SetFact
    | DropFact
    | EnsureNetwork
    | RemoveNetwork
    | EnsureVolume
    | ReleaseVolume
    | PullImage
    | ImportImage
    | LoadImage
    | CommitImage
    | ReleaseImage
    | SetTag
    | DropTag
    | PushTag
    | SetSync
    | DropSync
    | CopyTag
    | CopyReferrers
    | PruneTag
    | CreateContainer
    | StartContainer
    | StopContainer
    | RemoveContainer
    | UpdateContainer
)
