"""Images: pulled, imported, loaded, or committed from a container."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from reconciler.model import canonical
from reconciler.model.action import Action, CommitImage, ImportImage, LoadImage, PullImage
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.desired import Pin
from reconciler.model.facts import Absent, Unknown
from reconciler.model.observed import CommitKey, ObservedContainer, ObservedImage
from reconciler.model.resources import Commit, Image, Import, Load, Pull
from reconciler.plan.diff import diff
from reconciler.plan.draft import OPEN, Draft, Gate
from reconciler.plan.plan import Cost, FieldChange
from reconciler.plan.standing import completed
from reconciler.value import dataclass


def plan_image(draft: Draft, address: Address, image: Image) -> None:
    """Plans the image and says in ``draft.digests`` what it will be."""
    source = image.source
    if isinstance(source, Pull):
        _plan_pull(draft, address, image, source)
    elif isinstance(source, Commit):
        _plan_commit(draft, address, image, source)
    else:
        _plan_archive(draft, address, image, source)


def _plan_pull(draft: Draft, address: Address, image: Image, pull: Pull) -> None:
    pin = draft.desired.pins.get(address, Unknown("it was not resolved"))
    if isinstance(pin, Absent):
        _block_absent(draft, address, pull, pin)
        return
    if isinstance(pin, Unknown):
        draft.block(
            address,
            "image-unknown",
            f"nobody could tell what {pull.reference} is: {pin.reason}",
            pin.hint or "see that its registry or one of its mirrors answers, then try again",
        )
        return
    if pin.note:
        draft.told.setdefault(pin.note, []).append(address)
    if pin.tag:
        pull = replace(pull, reference=pull.reference.with_tag(pin.tag), track=None)
        image = Image(pull)
    draft.digests[address] = pin.digest
    form = {**canonical.form(image), "digest": str(pin.digest)}
    found = draft.current(address, ObservedImage)
    if found and found.complete and found.digest == pin.digest and found.form == form:
        return
    gate = draft.ready_gate(_facts_of(draft, pull.reference.registry))
    if gate.blocked:
        del draft.digests[address]
        draft.block_gate(address, gate)
        return
    on_disk = found is not None and found.complete and found.digest == pin.digest
    cost = Cost(disk_bytes=0) if on_disk else _pull_cost(draft, pin, repaired=found is not None and not found.complete)
    _announce(draft, address, found, form, cost, pin.why)
    draft.ready[address] = draft.step(PullImage(address, pull, pin, form), gate)


def _block_absent(draft: Draft, address: Address, pull: Pull, pin: Absent) -> None:
    if pull.picks is not None:
        message = pin.reason
        hint = "check the name, and what `track` asks for; an image can be pinned as pull: NAME:TAG@sha256:..."
        draft.block(address, "no-tag", message, hint)
        return
    if pull.policy == "never":
        message, hint = f"{pull.reference} is not on this host and `pull_policy` is never", "pull it, or allow pulling"
    else:
        message = f"{pull.reference} does not exist"
        if pin.reason:
            message = f"there is no image {pull.reference} for this host: {pin.reason}"
        hint = pin.hint or "check the name and the tag"
    draft.block(address, "image-absent", message, hint)


def _facts_of(draft: Draft, host: str) -> Iterable[Address]:
    for kind_address in (Address("registry", host), Address("mirror", host), Address("mirror", "*")):
        if kind_address in draft.desired.resources:
            yield kind_address


def _pull_cost(draft: Draft, pin: Pin, *, repaired: bool) -> Cost:
    """The bytes to fetch; a blob that several images share is counted with the first of them."""
    if not pin.blobs:
        return Cost(pull_bytes=None if repaired else 0, disk_bytes=None if repaired else 0)
    # What a manifest carries in itself came with it.
    missing = {
        blob.digest: 0 if blob.data is not None else blob.size for blob in pin.blobs if blob.digest not in draft.fetched
    }
    draft.fetched.update(missing)
    return Cost(pull_bytes=sum(missing.values()), disk_bytes=None if missing else 0)


def _announce(
    draft: Draft, address: Address, found: ObservedImage | None, form: Form, cost: Cost, why: str = ""
) -> None:
    """``why`` tells of the tag that was picked."""
    if found is None:
        message = "it is declared and not on this host" + (f"; picked {why}" if why else "")
        draft.change(address, "create", "missing", message, diff({}, form), cost=cost)
    elif found.form == form and found.complete:
        digest = FieldChange("digest", str(found.digest), form.get("digest"))
        draft.change(address, "update", "drift", "its entry points at another image", (digest,), cost=cost)
    elif found.form == form:
        message = "parts of it are missing on disk"
        draft.change(address, "update", "incomplete", message, cost=cost)
    else:
        fields = diff(found.form, form)
        paths = {field.path for field in fields}
        code, message = "changed", "its fields changed"
        if paths == {"digest"}:
            code, message = "tag-moved", "its tag points at another image"
        elif "pull.reference" in paths:
            message = "its reference changed"
        if why:
            code, message = ("tag-moved", message) if code == "tag-moved" else ("tag-picked", "another tag is picked")
            message += f": {why}"
        draft.change(address, "update", code, message, fields, cost=cost)


def _plan_archive(draft: Draft, address: Address, image: Image, source: Import | Load) -> None:
    form = canonical.form(image)
    found = draft.current(address, ObservedImage)
    if found and found.complete and found.form == form:
        draft.digests[address] = found.digest
        return
    action = ImportImage(address, source, form) if isinstance(source, Import) else LoadImage(address, source, form)
    _make(draft, address, found, action, form, OPEN, "its archive or its fields changed")


def _plan_commit(draft: Draft, address: Address, image: Image, commit: Commit) -> None:
    form = canonical.form(image)
    found = draft.current(address, ObservedImage)
    state = _commit_state(draft, commit)
    if state.gate.blocked:
        draft.block_gate(address, state.gate)
        return
    if found and found.complete and found.form == form and state.key and _same(state.key, found.commit):
        draft.digests[address] = found.digest
        return
    if found and found.complete and found.form == form:
        message = f"{commit.container} " + ("ran again" if state.key else "runs again first")
    else:
        message = "its fields changed"
    action = CommitImage(address, commit, state.key, form)
    _make(draft, address, found, action, form, state.gate, message)


@dataclass(frozen=True, slots=True)
class _CommitState:
    """How far the container of a commit is."""

    gate: Gate
    key: CommitKey | None = None


def _commit_state(draft: Draft, commit: Commit) -> _CommitState:
    gate = completed(draft, commit.container)
    source = draft.current(commit.container, ObservedContainer)
    if gate != OPEN or source is None:
        return _CommitState(gate)
    return _CommitState(gate, CommitKey(source.id, source.run, source.fingerprint or ""))


def _same(key: CommitKey, taken: CommitKey | None) -> bool:
    """Whether it would be the same commit: of one layer that nothing changed, however often its container ran since.

    A fingerprint that nobody took says nothing; then it is the run that counts.
    """
    if taken is None or key.container_id != taken.container_id:
        return False
    return key.fingerprint == taken.fingerprint if key.fingerprint else key.run == taken.run


def _make(
    draft: Draft,
    address: Address,
    found: ObservedImage | None,
    action: Action,
    form: Form,
    gate: Gate,
    message: str,
) -> None:
    """An image whose digest only the making of it tells."""
    digest = FieldChange("digest", str(found.digest) if found else None, None, unknown=True)
    cost = Cost(disk_bytes=None)
    if found is None:
        fields = (*diff({}, form), digest)
        draft.change(address, "create", "missing", "it is declared and not on this host", fields, cost=cost)
    elif not found.complete and found.form == form:
        draft.change(address, "update", "incomplete", "parts of it are missing on disk", (digest,), cost=cost)
    else:
        before = {name: value for name, value in found.form.items() if name != "digest"}
        draft.change(address, "update", "changed", message, (*diff(before, form), digest), cost=cost)
    draft.digests[address] = None
    draft.ready[address] = draft.step(action, gate)
