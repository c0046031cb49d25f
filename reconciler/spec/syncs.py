"""Syncs, and what they must not meet: each other, themselves, and tags that are pushed."""

from __future__ import annotations

from reconciler.model.address import Address
from reconciler.model.resources import Prune, Sync, Tag
from reconciler.model.selection import TagSelection
from reconciler.spec import schema_sync
from reconciler.spec.build import Build
from reconciler.spec.stacks import Entry, Stack


def build_syncs(build: Build, stack: Stack) -> None:
    """The syncs that a stack declares."""
    for text, entry in stack.sections["syncs"].items():
        model: schema_sync.Sync = entry.model
        target = schema_sync.repository(text)
        address = Address("sync", target)
        if address in build.resources:
            build.problems.add(
                entry.location,
                f"{address} is declared twice; first at {build.locations[address]}",
                "a repository is the target of one sync: keep one",
            )
            continue
        _check(build, entry, target, model)
        prune = model.prune
        sync = Sync(
            target,
            model.from_,
            _selection(model.tags),
            tuple(sorted(set(model.platforms), key=str)),
            model.referrers,
            Prune(prune.protect, prune.max_delete_share) if prune is not None else None,
            model.interval,
        )
        build.put(address, sync, stack.name, entry.location)


def check_syncs(build: Build) -> None:
    """No sync writes where tags are pushed, and none copies, through others, from its own target."""
    syncs = {found.target: address for address, found in build.resources.items() if isinstance(found, Sync)}
    for address, found in sorted(build.resources.items()):
        if isinstance(found, Tag) and found.push is not None and found.reference.name in syncs:
            sync = syncs[found.reference.name]
            build.problems.add(
                build.locations[address],
                f"{address} is pushed to a repository that {sync} at {build.locations[sync]} keeps",
                "push to another repository, or take the sync out",
            )
        if isinstance(found, Sync) and found.source != found.target:
            _check_circle(build, address, found)


def _check(build: Build, entry: Entry, target: str, model: schema_sync.Sync) -> None:
    if model.from_ == target:
        build.problems.add(entry.at("from"), f"{target} is both source and target", "name another repository")
    if model.interval < 1:
        build.problems.add(entry.at("interval"), "the interval is too short", "at least 1s")
    if model.prune is not None and model.tags is None:
        build.problems.add(
            entry.at("prune", key=True),
            "prune needs tags: it deletes whatever they do not choose",
            "say which under `tags`; `tags: {allow: [.*]}` is all of them",
        )
    if model.tags is not None and not model.tags.model_fields_set:
        build.problems.add(entry.at("tags", key=True), "tags has no rule", "give one, or leave `tags` out to copy all")


def _check_circle(build: Build, address: Address, sync: Sync) -> None:
    trail = [sync.target]
    source = sync.source
    while (following := build.resources.get(Address("sync", source))) is not None and source not in trail:
        assert isinstance(following, Sync)
        trail.append(source)
        source = following.source
    if source == sync.target and sync.target == min(trail):
        build.problems.add(
            build.locations[address],
            f"syncs copy in a circle: {' <- '.join([*trail, source])}",
            "remove one of them",
        )


def _selection(tags: schema_sync.SyncTags | None) -> TagSelection:
    if tags is None:
        return TagSelection()
    return TagSelection(
        tuple(sorted(set(tags.names))), tags.allow, tags.deny, tags.semver or "", tags.newest, tags.min_age
    )
