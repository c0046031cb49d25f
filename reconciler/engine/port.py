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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

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
    """The registries and mirrors to go by, as the specs declare them: a plan may precede their recording."""

    registries: tuple[Registry, ...] = ()
    mirrors: tuple[Mirror, ...] = ()


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far an action is. ``done`` and ``total`` are bytes where ``item`` is a blob; ``total`` None is unknown."""

    address: Address
    item: str
    state: str
    done: int = 0
    total: int | None = None


Progress = Callable[[ProgressEvent], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """An action that succeeded: what it did, in numbers. A failure is a ``ReconcilerError`` instead.

    ``changed`` is false when the state asked for was there already. ``digest`` is the image made or pulled.
    """

    changed: bool = True
    digest: Digest | None = None
    bytes_pulled: int = 0
    bytes_pushed: int = 0
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

        Raises ``InvalidError`` naming a file that cannot be read or is wrong."""

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
