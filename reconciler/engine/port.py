"""The port between plans and the machinery that carries them out.

An engine observes, performs one action at a time (from several threads), and says what it can do. It never plans.

A pass, as the drivers run it::

    with engine.turn(timeout=10):
        observed = engine.observe(interest)
        ...plan...
        outcome = engine.perform(action, progress)     # in parallel, each action after those it needs
        engine.record(generation)
    engine.wait(timeout=5)                             # without the turn: others may write meanwhile
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from reconciler.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractContextManager

    from reconciler.model.action import Action
    from reconciler.model.address import Address
    from reconciler.model.canonical import Form
    from reconciler.model.capabilities import Capabilities
    from reconciler.model.desired import HostMirrors, Resolution
    from reconciler.model.observed import Interest, Observed
    from reconciler.model.resources import Mirror, Pull, Registry
    from reconciler.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The registries and mirrors to go by, as the specs declare them: a plan may precede their recording.

    With ``files_read`` they hold all that files of the host say now: what was recorded of these before is out of date.
    """

    registries: tuple[Registry, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    files_read: bool = False


ItemState = Literal[
    "waiting",
    # Of a blob that comes; ``resuming`` goes on where an earlier run broke off.
    "pulling",
    "resuming",
    "downloading",
    "verifying",
    "loading",
    "extracting",
    "complete",
    "loaded",
    "exists",
    # Of a blob that goes; ``present`` is one that the registry has.
    "uploading",
    "pushed",
    "mounted",
    "present",
]


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far an action is. ``item`` is the start of a layer's digest, or a reference where blobs are not told apart.

    ``done`` and ``total`` are bytes, ``total`` None is unknown. ``done`` may go back: bytes that proved wrong are
    thrown away. ``origin`` is the repository that something was mounted from.
    """

    address: Address
    item: str
    state: ItemState
    done: int = 0
    total: int | None = None
    origin: str = ""


Progress = Callable[[ProgressEvent], None]


class ItemProgress(Protocol):
    """Hears of the layers of one image, from several threads. The arguments are the fields of ``ProgressEvent``."""

    def __call__(self, item: str, state: ItemState, done: int, total: int | None, origin: str = "") -> None: ...


def progress_of(progress: Progress, address: Address) -> ItemProgress:
    """What hears of the layers of the image at ``address``, and passes it on to ``progress``."""

    def report(item: str, state: ItemState, done: int, total: int | None, origin: str = "") -> None:
        progress(ProgressEvent(address, item, state, done, total, origin))

    return report


@dataclass(frozen=True, slots=True)
class Outcome:
    """An action that succeeded: what it did, in numbers. A failure is a ``ReconcilerError`` instead.

    ``changed`` is false when the state asked for was there already. ``digest`` is the image made or pulled.
    ``bytes_pulled`` and ``bytes_pushed`` are those of blobs that went over the network, those sent twice twice;
    manifests are not counted. ``layers_there`` did not have to go, for they were there; ``layers_mounted`` neither,
    for their registry took them from another repository.
    """

    changed: bool = True
    digest: Digest | None = None
    bytes_pulled: int = 0
    bytes_pushed: int = 0
    layers_there: int = 0
    bytes_there: int = 0
    layers_mounted: int = 0
    bytes_mounted: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class GenerationEntry:
    """One resource of a generation: its canonical form, and the digest of an image or of a container's image."""

    form: Form
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """One successful apply: what was declared, and the digests it came to. ``number`` is given by the engine."""

    stacks: frozenset[str]
    source: str
    revision: str
    entries: Mapping[Address, GenerationEntry]
    number: int = 0
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a container outside an action."""

    address: Address | None
    kind: Literal["exited", "removed", "unknown"]


class Engine(Protocol):
    """See the module's docstring for the order of calls. Every method may raise ``ReconcilerError``."""

    @property
    def capabilities(self) -> Capabilities: ...

    def seal(self, value: bytes) -> str:
        """The keyed hash of a sensitive value: equal values give equal seals on one root, and tell nothing."""

    def host_mirrors(self) -> HostMirrors:
        """The mirrors that files of this host name for other programs. Writes nothing.

        Raises ``HostError`` naming a file that cannot be read or is wrong."""

    def resolve(self, pulls: Mapping[Address, Pull], hosts: HostFacts) -> Mapping[Address, Resolution]:
        """Pins every pull to a digest, in parallel. Writes nothing. One result for each address asked for."""

    def observe(self, interest: Interest, hosts: HostFacts = HostFacts()) -> Observed:
        """What there is. Writes nothing, and works on a root that does not exist yet or cannot be written."""

    def note(self, interest: Interest, observed: Observed, pending: Collection[Address]) -> None:
        """Keeps what an observation found that later ones go by, and that no action is about: when a sync's registries
        were asked, when a tag was first seen. Must hold the turn.

        ``pending`` are the addresses with something left to do: a sync among them is due again at once, so that
        whoever comes next sees whether it was done."""

    def perform(self, action: Action, progress: Progress) -> Outcome:
        """Carries out one action. Must hold the turn. Safe to call from several threads."""

    def turn(self, timeout: float | None) -> AbstractContextManager[None]:
        """The right to write, held by one process at a time. Raises ``LockedError`` after ``timeout`` seconds."""

    def record(self, generation: Generation) -> int:
        """Stores a generation and returns its number. Must hold the turn."""

    def generations(self) -> Sequence[Generation]:
        """All that are kept, oldest first."""

    def wait(self, timeout: float) -> Sequence[Event]:
        """Blocks until a container changes by itself, at most ``timeout`` seconds. Needs no turn."""
