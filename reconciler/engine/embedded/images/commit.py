"""Commits: the writable layer of a container as an image on top of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.clock import SystemClock, rfc3339
from reconciler.engine.embedded.images.build import changed_config, commit_config
from reconciler.engine.embedded.images.checks import check_depth
from reconciler.errors import InvalidError, NotFoundError
from reconciler.model.address import Address
from reconciler.oci import media
from reconciler.oci.config import ImageConfig
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.layers import chain_ids
from reconciler.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from reconciler.oci.reference import Reference
from reconciler.runtime.spec import KERNEL_TREES
from reconciler.store.images import ImageRecord, LayerRecord, Name
from reconciler.store.layers.diff import commit_layer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reconciler.engine.embedded.containers.rows import ContainerRow
    from reconciler.engine.embedded.state import State
    from reconciler.model.resources import Commit, ConfigChanges
    from reconciler.store.collection.leases import Lease

_PREFIX = "org.opencontainers.image."
_DOCKER_TO_OCI = {media.DOCKER_LAYER: media.OCI_LAYER, media.DOCKER_LAYER_GZIP: media.OCI_LAYER_GZIP}


def stubs(row: ContainerRow) -> frozenset[str]:
    """Where the runtime made mount points in the container: what it put there is no change of the container's."""
    return frozenset((*KERNEL_TREES, *row.settings.stubs))


def commit_container(
    state: State,
    row: ContainerRow,
    commit: Commit,
    *,
    config: ConfigChanges,
    created: float,
    command: str,
    base_config: dict[str, object] | None = None,
    still: AbstractContextManager[object] | None = None,
) -> ImageRecord:
    """The container's image with its writable layer on top. ``created`` is seconds since the epoch.

    ``base_config`` replaces the image's own ``config`` object (a commit by hand takes the container's). An unchanged
    container adds a history entry but no layer. ``still`` is entered while the layer is read, to keep it as it is.
    The image is complete, but its new layer stays packed until a container needs it (``State.unpack``).

    The same layer, fields and date give the same digest. Raises ``NotFoundError`` when the container's image is gone,
    and what ``commit_layer`` raises.
    """
    base = state.images.get(row.image)
    if base is None:
        raise NotFoundError(f"the image of container {row.shown} is gone", hint="pull it again")
    snapshot = state.snapshots.get(row.id)
    document = state.config(base).raw
    layers = _layers_of(state, base)
    with state.leases.take(f"commit {row.shown}", [base.digest]) as lease:
        with state.content.new_blob() as blob:
            with still or nullcontext():
                layer = commit_layer(snapshot.upper, snapshot.lowers, blob.write, stubs(row))
            if not layer.is_empty:
                check_depth(len(layers) + 1, f"the commit of {row.shown}")
                lease.add([blob.digest()])
                layers = (*layers, Descriptor(media.OCI_LAYER_GZIP, blob.commit(), blob.offset))
        date = rfc3339(datetime.fromtimestamp(created, UTC))
        merged = commit_config(
            document,
            None if layer.is_empty else layer.diff_id,
            author=commit.author,
            message=commit.message,
            created=date,
            command=command,
            base_config=base_config,
        )
        annotations = {
            "base.digest": str(base.digest),
            "base.name": _base_name(state, row),
            "created": date,
            "authors": commit.author,
        }
        return _record(
            state, changed_config(merged, config), layers, {_PREFIX + k: v for k, v in annotations.items() if v}, lease
        )


def _layers_of(state: State, image: ImageRecord) -> tuple[Descriptor, ...]:
    """An image's layers as an OCI manifest names them: one that we write does not mix the two families of types."""
    manifest = parse_manifest(state.content.read(image.digest, MAX_MANIFEST_BYTES))
    assert isinstance(manifest, Manifest)
    return tuple(
        Descriptor(_DOCKER_TO_OCI.get(layer.media_type, layer.media_type), layer.digest, layer.size)
        for layer in manifest.layers
    )


def _base_name(state: State, row: ContainerRow) -> str:
    """The full reference that the container's image was asked for by; empty when that was an id or an entry."""
    if row.address is None:
        asked = [str(row.form.get("image") or "")]
        if row.image.hex.startswith(asked[0].removeprefix("sha256:")):
            return ""
    else:
        entries = state.entries.all()
        names = state.names.list(stack=row.address.stack, digest=row.image)
        forms = [entries[address].form for address in map(Address.parse, _entries(names)) if address in entries]
        asked = sorted(form["pull"]["reference"] for form in forms if "pull" in form)
    try:
        return str(Reference.parse(asked[0])) if asked else ""
    except InvalidError:
        return ""


def _entries(names: Iterable[Name]) -> list[str]:
    return [name.name for name in names if name.kind == "entry"]


def _record(
    state: State,
    config_data: bytes,
    layers: tuple[Descriptor, ...],
    annotations: dict[str, str],
    lease: Lease,
) -> ImageRecord:
    config = ImageConfig.parse(config_data)
    descriptor = Descriptor(media.OCI_CONFIG, Digest.of(config_data), len(config_data))
    data = Manifest.build(descriptor, layers, annotations)
    lease.add([descriptor.digest, Digest.of(data), *chain_ids(config.diff_ids)])
    state.content.put(config_data)
    digest = state.content.put(data)
    record = ImageRecord(
        digest=digest,
        media_type=media.OCI_MANIFEST,
        config=descriptor,
        layers=tuple(
            LayerRecord(layer.digest, layer.size, layer.media_type, diff_id)
            for layer, diff_id in zip(layers, config.diff_ids, strict=True)
        ),
        index_digest=None,
        platform=config.platform,
        size=sum(layer.size for layer in layers) + len(config_data) + len(data),
        created=config.created,
        fetched_at=rfc3339(SystemClock().now()),
    )
    state.images.add(record)
    return record
