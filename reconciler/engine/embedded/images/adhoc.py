"""Images that people pull and name by hand, beside the plans."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from reconciler.errors import ConflictError, NotFoundError, RegistryError
from reconciler.model.address import Address
from reconciler.model.resources import Pull, Registry
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.store.images import Name

if TYPE_CHECKING:
    from reconciler.engine.embedded.engine import EmbeddedEngine
    from reconciler.engine.embedded.images.intake import Pulled
    from reconciler.engine.embedded.state import State
    from reconciler.engine.port import HostFacts, ItemProgress


def pull_image(
    engine: EmbeddedEngine, pull: Pull, progress: ItemProgress, *, plain_http: bool = False
) -> tuple[Pulled, str]:
    """The image that ``pull`` means by its policy, made complete on this host and named; and a note, where it is the
    one that was stored since nobody could tell whether there is another.

    Needs the turn. The tag's owner stays who it was. Raises ``NotFoundError``, ``RegistryError``, ``ConflictError``.
    """
    from reconciler.engine.port import HostFacts
    from reconciler.model.facts import Absent, Unknown

    machinery = engine.writer()
    known = machinery.state.names.lookup(str(pull.reference))
    with contextlib.ExitStack() as started:
        # Ready when the first bytes come: they start while the HTTP library is imported and the registry is asked.
        workers = started.enter_context(machinery.state.layers.workers()) if known is None else None
        hosts = plain_hosts(machinery.state, pull.reference.registry) if plain_http else HostFacts()
        address = Address("image", pull.reference.familiar)
        found = engine.resolve({address: pull}, hosts)[address]
        attempt = f"pull {pull.reference.familiar}"
        if isinstance(found, Absent) and pull.platform is None:
            from reconciler.engine.embedded.artifacts import pull_artifact

            artifact = pull_artifact(machinery, engine.client(hosts), pull.reference, progress)
            if artifact is not None:
                digest = artifact.record.digest
                check_movable(machinery.state, pull.reference, digest, pulled=True)
                owner = known.stack if known else ""
                machinery.state.names.set(Name(str(pull.reference), digest, owner, "tag"))
                return artifact, ""
        if isinstance(found, Absent):
            raise NotFoundError(found.reason, attempt=attempt, hint=found.hint or "check the name and the tag")
        if isinstance(found, Unknown):
            raise RegistryError(found.reason, attempt=attempt, hint=found.hint)
        if found.note and found.answered_by != "store":
            engine.tell(found.note)
        check_movable(machinery.state, pull.reference, found.digest, pulled=True)
        pulled = machinery.images.pull(
            engine.client(hosts), pull.reference, found.digest, found.index, progress, pull.platform, workers
        )
    machinery.state.names.set(Name(str(pull.reference), pulled.record.digest, known.stack if known else "", "tag"))
    return pulled, found.note if found.answered_by == "store" else ""


def check_movable(state: State, reference: Reference, digest: Digest, *, pulled: bool = False) -> None:
    """Raises ``ConflictError`` when naming ``digest`` so by hand would move a tag that a stack owns.

    What a stack only pulls may be ``pulled`` anew.
    """
    known = state.names.lookup(str(reference))
    if known is None or known.digest == digest or not known.stack:
        return
    if pulled and Address("tag", str(reference)) not in state.tags.all():
        return
    raise ConflictError(
        f"the tag {reference.familiar} belongs to stack {known.stack}",
        hint="change it in the specs, or choose another tag",
    )


def plain_hosts(state: State, host: str) -> HostFacts:
    """``host`` as it was recorded, but over plain HTTP."""
    from reconciler.engine.embedded.registries import recorded_facts
    from reconciler.engine.port import HostFacts

    recorded = {registry.host: registry for registry in recorded_facts(state.facts.all()).registries}
    return HostFacts((dataclasses.replace(recorded.get(host, Registry(host)), plain_http=True),))
