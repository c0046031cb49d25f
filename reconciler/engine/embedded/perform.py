"""One action at a time: from the model's actions to the machinery."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from reconciler.engine.embedded.containers import volumes
from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.images import load
from reconciler.engine.embedded.images.commit import commit_container
from reconciler.engine.embedded.images.unpacking import unpack_image
from reconciler.engine.embedded.machinery import Machinery
from reconciler.engine.embedded.records import EntryRow
from reconciler.engine.embedded.upkeep.repair_blobs import BlobSource
from reconciler.engine.port import Outcome, Progress, progress_of
from reconciler.errors import ConflictError, HostError, NotFoundError
from reconciler.model import action as act
from reconciler.model.address import Address
from reconciler.model.observed import CommitKey
from reconciler.model.resources import FileContent
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.store.images import ImageRecord, Name

if TYPE_CHECKING:
    from reconciler.engine.embedded.syncs.copies import SyncPerformer
    from reconciler.registry.client import RegistryClient


class Performer:
    """Carries out actions. ``client`` makes or finds the registry client, ``syncs`` what carries out syncs, when an
    action needs one."""

    def __init__(
        self, machinery: Machinery, client: Callable[[], RegistryClient], syncs: Callable[[], SyncPerformer]
    ) -> None:
        self._machinery = machinery
        self._state = machinery.state
        self._client = client
        self._syncs = syncs

    def perform(self, action: act.Action, progress: Progress) -> Outcome:
        """See ``Engine.perform``."""
        match action:
            case act.SetFact():
                self._state.facts.set(action.address, action.form, action.stacks)
                return Outcome()
            case act.DropFact():
                self._state.facts.drop(action.address, action.remaining)
                return Outcome()
            case act.EnsureNetwork():
                return Outcome(self._machinery.wiring.ensure(action.address, action.network, action.form))
            case act.RemoveNetwork():
                return Outcome(self._machinery.wiring.remove(action.address))
            case act.EnsureVolume():
                return self._ensure_volume(action)
            case act.ReleaseVolume():
                return self._release_volume(action)
            case act.PullImage():
                return self._pull(action, progress)
            case act.ImportImage():
                with load.naming(action.source.archive.path):
                    record = self._machinery.images.import_archive(action.source, opener(action.source.archive))
                return self._name_image(action.address, record, EntryRow(action.form))
            case act.LoadImage():
                report = progress_of(progress, action.address)
                with opener(action.source.archive)() as archive, load.naming(action.source.archive.path):
                    record = load.load_archive(archive, action.source.ref, self._machinery.images, report)
                return self._name_image(action.address, record, EntryRow(action.form))
            case act.CommitImage():
                return self._commit(action)
            case act.ReleaseImage():
                return self._release_image(action.address)
            case act.SetTag():
                digest = self._digest(action.tag.image, action.digest)
                return Outcome(self._machinery.tags.set(action.tag, digest, action.form, action.stack), digest)
            case act.DropTag():
                return Outcome(self._machinery.tags.drop(action.address))
            case act.PushTag():
                return self._push(action, progress)
            case act.SetSync() | act.DropSync() | act.CopyTag() | act.CopyReferrers() | act.PruneTag():
                return self._syncs().perform(action, progress)
            case act.CreateContainer():
                return self._create(action)
            case act.StartContainer():
                return self._start(action)
            case act.StopContainer():
                row = self._find(action.container_id)
                return Outcome(row is not None and self._machinery.containers.stop(row))
            case act.RemoveContainer():
                return self._remove(action)
            case act.UpdateContainer():
                self._machinery.containers.update(
                    self._state.containers.get(action.container_id), action.container, action.form
                )
                return Outcome()

    # Volumes

    def _ensure_volume(self, action: act.EnsureVolume) -> Outcome:
        table = self._state.volumes
        if action.volume.external:
            table.get(action.address.short)
            return Outcome(changed=False)
        before = table.all().get(action.address.name)
        row = volumes.ensure(self._state.root, table, action.address.name, form=action.form, owner=str(action.address))
        return Outcome(row != before)

    def _release_volume(self, action: act.ReleaseVolume) -> Outcome:
        name = action.address.name
        row = self._state.volumes.all().get(name)
        if row is None or not (row.owner or action.delete_data):
            return Outcome(changed=False)
        if action.delete_data:
            users = [row.shown for row in self._state.containers.all() if name in row.settings.volumes]
            volumes.check_unused(name, users)
            volumes.delete(self._state.root, self._state.volumes, name)
        else:
            volumes.disown(self._state.volumes, row)
        return Outcome()

    # Images

    def _pull(self, action: act.PullImage, progress: Progress) -> Outcome:
        pulled = self._machinery.images.pull(
            self._client(),
            action.pull.reference,
            action.pin.digest,
            action.pin.index,
            progress_of(progress, action.address),
            action.pull.platform,
        )
        record = pulled.record
        stack = action.address.stack
        reference = str(action.pull.reference)
        with self._state.database.transaction():
            # What a declared tag means is for its stack to say.
            if Address("tag", reference) not in self._state.tags.all():
                known = self._state.names.lookup(reference)
                # A name made by hand stays its maker's: it does not go when the entry goes.
                owner = known.stack if known is not None else stack
                self._state.names.set(Name(reference, record.digest, owner, "tag"))
            outcome = self._name_image(action.address, record, EntryRow(action.form))
        return Outcome(
            outcome.changed or pulled.fetched > 0,
            record.digest,
            bytes_pulled=pulled.fetched,
            layers_there=len(pulled.there),
            bytes_there=pulled.bytes_there,
        )

    def _commit(self, action: act.CommitImage) -> Outcome:
        row = self._named(action.commit.container)
        key = CommitKey(row.id, row.run, self._state.snapshots.fingerprint(row.id))
        if action.key is not None and action.key != key:
            raise ConflictError(
                f"container {row.shown} has changed since this was planned",
                hint="plan again: it will be committed anew",
            )
        kept = self._committed_already(action, key)
        record = kept or commit_container(
            self._state,
            row,
            action.commit,
            config=action.commit.config,
            # Its end may not be recorded yet, in the pass that it ended in.
            created=row.finished_at or self._machinery.containers.ended_at(row),
            command=" ".join(row.settings.args),
        )
        return self._name_image(action.address, record, EntryRow(action.form, key))

    def _committed_already(self, action: act.CommitImage, key: CommitKey) -> ImageRecord | None:
        """The image that an earlier run left, when this run changed nothing in the layer it was taken of."""
        entry = self._state.entries.all().get(action.address)
        name = self._state.names.lookup(str(action.address))
        if entry is None or name is None or entry.commit is None or entry.form != action.form:
            return None
        if (entry.commit.container_id, entry.commit.fingerprint) != (key.container_id, key.fingerprint):
            return None
        record = self._state.images.get(name.digest)
        return record if record is not None and self._machinery.images.complete(record) else None

    def _name_image(self, address: Address, record: ImageRecord, entry: EntryRow) -> Outcome:
        known = self._state.names.lookup(str(address))
        before = self._state.entries.all().get(address)
        same = known is not None and known.digest == record.digest and before == entry
        if not same:
            with self._state.database.transaction():
                self._state.names.set(Name(str(address), record.digest, address.stack, "entry"))
                self._state.entries.set(address, entry.form, entry.commit)
                if _pulled(before) != _pulled(entry):
                    self._let_go(before, address.stack)
        return Outcome(not same, record.digest)

    def _release_image(self, address: Address) -> Outcome:
        with self._state.database.transaction():
            entry = self._state.entries.all().get(address)
            self._state.entries.drop(address)
            self._state.picks.note({address: ""})
            removed = self._state.names.remove(str(address))
            self._let_go(entry, address.stack)
        return Outcome(removed)

    def _let_go(self, entry: EntryRow | None, stack: str) -> None:
        """Takes away the name that a former entry of the stack pulled, or leaves it to another entry that pulls it."""
        pulled = _pulled(entry)
        name = self._state.names.lookup(pulled) if pulled else None
        if name is None or name.stack != stack or Address("tag", name.name) in self._state.tags.all():
            return
        heirs = (address for address, row in self._state.entries.all().items() if _pulled(row) == pulled)
        heir = next(heirs, None)
        if heir is None:
            self._state.names.remove(name.name)
        else:
            self._state.names.set(Name(name.name, name.digest, heir.stack, "tag"))

    def _digest(self, image: Address, digest: Digest | None) -> Digest:
        if digest is not None:
            return digest
        name = self._state.names.lookup(str(image))
        if name is None:
            raise NotFoundError(f"{image} is not on this host", hint="apply again")
        return name.digest

    def _push(self, action: act.PushTag, progress: Progress) -> Outcome:
        digest = self._digest(action.tag.image, action.digest)
        report = progress_of(progress, action.address)
        outcome = self._machinery.tags.push(self._client(), action.tag.reference, digest, action.expected, report)
        self._state.tags.pushed(action.address, digest, repair=action.repair)
        return replace(outcome, changed=True)

    # Containers

    def _create(self, action: act.CreateContainer) -> Outcome:
        containers = self._machinery.containers
        image = self._digest(action.container.image, action.image)
        named = self._state.containers.named(action.address.name)
        if named is not None and named.id != action.replaces and named.form == action.form:
            return Outcome(False, image)
        for row in self._state.containers.at(action.address):
            # Made by an apply that was interrupted: made again, since a half-made one cannot be told from a whole one.
            if row.name is None and row.id != action.replaces:
                containers.remove(row)
        old = self._find(action.replaces) if action.replaces else None
        unpack_image(self._state, image, BlobSource(self._state, self._client).fetch)
        containers.create(
            action.container,
            image,
            name=None if old is not None else action.address.name,
            address=action.address,
            form=action.form,
            inherit=old,
        )
        return Outcome(True, image)

    def _start(self, action: act.StartContainer) -> Outcome:
        containers = self._machinery.containers
        wanted = action.container_id
        row = self._state.containers.get(wanted) if wanted else self._newest(action.address)
        if containers.state_of(row).status == "paused":
            return Outcome(containers.resume(row))
        if containers.state_of(row).running:
            return Outcome(changed=False)
        if row.name is None:
            self._state.containers.take_name(row.id, action.address.name)
        containers.start(row)
        return Outcome()

    def _newest(self, address: Address) -> ContainerRow:
        rows = self._state.containers.at(address)
        if not rows:
            raise NotFoundError(f"{address} is not there", hint="apply again: it will be made anew")
        return rows[-1]

    def _remove(self, action: act.RemoveContainer) -> Outcome:
        row = self._find(action.container_id)
        if row is None:
            return Outcome(changed=False)
        self._machinery.containers.remove(row)
        return Outcome()

    def _find(self, container_id: str) -> ContainerRow | None:
        try:
            return self._state.containers.get(container_id)
        except NotFoundError:
            return None

    def _named(self, address: Address) -> ContainerRow:
        row = self._state.containers.named(address.name)
        if row is None:
            raise NotFoundError(f"{address} is not there", hint="apply again")
        return row


def opener(content: FileContent) -> Callable[[], BinaryIO]:
    """Opens an archive of the specs, refusing one that changed since it was read for the plan.

    An image is known by its archive's content, so other content under the same name would be a lie for good.
    """

    def open_file() -> BinaryIO:
        path = Path(content.path)
        try:
            file = path.open("rb")
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}", hint="put the file back") from None
        if path.stat().st_size != content.size or hashlib.file_digest(file, "sha256").hexdigest() != content.sha256:
            file.close()
            raise ConflictError(f"{path} changed since it was planned", hint="plan again")
        file.seek(0)
        return cast("BinaryIO", file)

    return open_file


def _pulled(entry: EntryRow | None) -> str | None:
    """The full reference that an entry pulls, or None."""
    pull = entry.form.get("pull") if entry else None
    return str(Reference.parse(pull["reference"])) if pull else None
