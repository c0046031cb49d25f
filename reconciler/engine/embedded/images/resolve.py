"""Pins references to the manifest of one platform, without writing anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engine.embedded.images.checks import check_depth
from reconciler.engine.embedded.images.tag_lists import TagLists
from reconciler.engine.embedded.state import State
from reconciler.errors import IntegrityError, InvalidError, NotFoundError, ReconcilerError, RefusedError
from reconciler.model.address import Address
from reconciler.model.desired import Pin, Resolution
from reconciler.model.facts import Absent, Unknown
from reconciler.model.resources import Pull
from reconciler.oci.config import MAX_CONFIG_BYTES, ImageConfig
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_manifest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference

if TYPE_CHECKING:
    from reconciler.engine.embedded.images.track import Sightings
    from reconciler.registry.client import RegistryClient

_WORKERS = 8


class ManifestSource:
    """Manifests by digest: from the store, from what this process fetched before, or from a registry."""

    def __init__(self, state: State, fetched: dict[Digest, bytes]) -> None:
        self._state = state
        self.fetched = fetched

    def local(self, digest: Digest) -> bytes | None:
        """The manifest as far as it is at hand; one that is damaged on disk is not."""
        if digest in self.fetched:
            return self.fetched[digest]
        try:
            return self._state.content.read(digest, MAX_MANIFEST_BYTES) if self._state.content.has(digest) else None
        except IntegrityError:
            return None

    def get(self, client: RegistryClient, reference: Reference, digest: Digest) -> bytes:
        """The manifest's bytes, verified. Raises what the registry client raises."""
        data = self.local(digest)
        if data is None:
            data = self.fetched[digest] = client.manifest(reference.with_digest(digest))
        return data


def resolve_all(
    pulls: Mapping[Address, Pull],
    state: State,
    client: Callable[[], RegistryClient],
    manifests: ManifestSource,
    sightings: Sightings,
) -> dict[Address, Resolution]:
    """One result for each pull. References that mean the same, of images that are the same, are asked for once.

    ``client`` makes or finds the registry client; it is asked only when a registry has to be. What tags were seen to
    be, where age matters, is added to ``sightings``.
    """
    current = _current_of(pulls, state)
    asked = {address: (pull, current.get(address)) for address, pull in pulls.items()}
    questions, lists = dict.fromkeys(asked.values()), TagLists()

    def answer(question: tuple[Pull, Reference | None]) -> Resolution:
        pull, known = question
        return _resolve(pull, known, lists, state, client, manifests, sightings)

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="resolve") as pool:
        answers = dict(zip(questions, pool.map(answer, questions), strict=True))
    return {address: answers[question] for address, question in asked.items()}


def _current_of(pulls: Mapping[Address, Pull], state: State) -> Mapping[Address, Reference]:
    if not any(pull.picks for pull in pulls.values()):
        return {}
    from reconciler.engine.embedded.images.track import current_of

    return current_of(pulls, state)


def _resolve(
    pull: Pull,
    current: Reference | None,
    lists: TagLists,
    state: State,
    client: Callable[[], RegistryClient],
    manifests: ManifestSource,
    sightings: Sightings,
) -> Resolution:
    if (selection := pull.picks) is not None:
        from reconciler.engine.embedded.images.track import TrackedRepository
        from reconciler.engine.tag_pick import resolve_tracked

        repository = TrackedRepository(pull, state, client, manifests, sightings, lists, current)
        return resolve_tracked(pull, selection, repository)
    try:
        kept = stored(pull, state)
    except InvalidError as error:
        if pull.policy in ("missing", "never"):
            return Absent(error.reason, error.hint)
        kept = None
    # What a digest means can not have moved.
    if kept is not None and (pull.policy in ("missing", "never") or pull.reference.digest is not None):
        return kept
    if pull.policy == "never":
        return Absent(f"{pull.reference.familiar} is not on this host, and pull_policy is never")
    try:
        return ask(pull, client(), state, manifests)
    except NotFoundError as error:
        return Absent(error.reason)
    except RefusedError as error:
        return Unknown(error.reason, error.hint)
    except InvalidError as error:
        return Absent(error.reason, error.hint)
    except ReconcilerError as error:
        if kept is not None:
            moved = f"nobody could tell whether {pull.reference.familiar} moved, so the stored image is kept"
            note = f"{moved}: {error.reason}"
            return Pin(kept.digest, kept.index, answered_by="store", note=note)
        return Unknown(error.reason, error.hint)


def stored(pull: Pull, state: State) -> Pin | None:
    """What the reference means on this host: the image it was last pulled as, if that is there and fits.

    A name points at one image at a time, but entries may want several platforms of one index: any that was chosen
    from the same index will do. Raises ``InvalidError`` when it is the only one, and for another platform.
    """
    digest = pull.reference.digest
    if digest is None:
        name = state.names.lookup(str(pull.reference))
        digest = name.digest if name else None
    if digest is None:
        return None
    record = state.images.get(digest)
    if record is not None and (pull.reference.digest is not None or record.index_digest is None):
        check_platform(pull.reference, pull.platform, record.platform)
        candidates = [record]  # the one image that the reference can mean, for whatever platform it is
    else:
        index = record.index_digest if record is not None else digest
        wanted = pull.platform or Platform.host()
        found = state.images.of_index(index) if index is not None else ()
        candidates = [image for image in found if wanted.runs(image.platform)]
    for image in candidates:
        if all(state.content.has(blob) for blob in image.blobs):
            return Pin(image.digest, image.index_digest, answered_by="store")
    return None


def ask(pull: Pull, client: RegistryClient, state: State, manifests: ManifestSource) -> Pin:
    """What the registry says that the reference is now; of a digest whose manifest is at hand nothing is asked.

    Raises what the registry client raises.
    """
    if pull.reference.digest is not None and (kept := manifests.local(pull.reference.digest)) is not None:
        pin = pin_of(pull, pull.reference.digest, parse_manifest(kept), client, state, manifests)
        return replace(pin, answered_by="store")
    # What is noted is in the pin, and the plan tells it.
    found = client.resolve(pull.reference, known=lambda digest: manifests.local(digest) is not None, quiet=True)
    digest = found.descriptor.digest
    if found.data is not None:
        manifests.fetched[digest] = found.data
    data = manifests.get(client, pull.reference, digest)
    parsed = parse_manifest(data, found.descriptor.media_type)
    pin = pin_of(pull, digest, parsed, client, state, manifests)
    return replace(pin, answered_by=found.source, note="; ".join(found.notes))


def pin_of(
    pull: Pull,
    digest: Digest,
    parsed: Manifest | Index,
    client: RegistryClient,
    state: State,
    manifests: ManifestSource,
) -> Pin:
    """The pin to the image that the manifest or index ``digest`` means for the platform of ``pull``."""
    if isinstance(parsed, Manifest):
        config = parsed.config.digest
        if parsed.is_image and state.content.has(config):  # else the pull will see, before it takes any layer
            found_platform = ImageConfig.parse(state.content.read(config, MAX_CONFIG_BYTES)).platform
            check_platform(pull.reference, pull.platform, found_platform)
        return Pin(digest, None, _blobs(parsed))
    chosen = parsed.choose(pull.platform or Platform.host())
    manifest = parse_manifest(manifests.get(client, pull.reference, chosen.digest), chosen.media_type)
    if not isinstance(manifest, Manifest):
        raise InvalidError(f"index {digest} has another index as its entry for the platform")
    return Pin(chosen.digest, digest, _blobs(manifest))


def check_platform(reference: Reference, wanted: Platform | None, found: Platform) -> None:
    """Raises ``InvalidError`` when an image for ``found`` is not what was ``wanted``; None takes any."""
    if wanted is not None and not wanted.runs(found):
        raise InvalidError(
            f"{reference.familiar} is for {found}, not for {wanted}",
            hint="use an image that was built for it, or say the image's own platform with `platform:`",
        )


def _blobs(manifest: Manifest) -> tuple[Descriptor, ...]:
    if not manifest.is_image:
        raise InvalidError(
            f"it is an artifact ({manifest.config.media_type}), not an image", hint="only images can be run"
        )
    check_depth(len(manifest.layers), "it")
    return manifest.blobs
