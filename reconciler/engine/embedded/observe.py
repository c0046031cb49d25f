"""Builds ``Observed`` from the root's records, its tasks and the kernel. Writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

from reconciler.engine.embedded.containers.lifecycle import Containers
from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.state import State
from reconciler.engine.embedded.syncs.rows import SyncRow
from reconciler.engine.embedded.wiring import Wiring, without_stack
from reconciler.errors import NotFoundError
from reconciler.model.address import Address
from reconciler.model.canonical import form
from reconciler.model.facts import RemoteTag, Unknown
from reconciler.model.observed import (
    Interest,
    Observed,
    ObservedContainer,
    ObservedFact,
    ObservedImage,
    ObservedNetwork,
    ObservedResource,
    ObservedSync,
    ObservedTag,
    ObservedVolume,
    Status,
    SyncView,
)
from reconciler.model.resources import Sync
from reconciler.network import sysctl

_EXTERNAL = {"external": True}

RemoteTags = Callable[[frozenset[Address]], Mapping[Address, RemoteTag]]
LookAtSync = Callable[[Sync], SyncView | Unknown]


class Observer:
    def __init__(self, state: State, containers: Containers, wiring: Wiring) -> None:
        self._state = state
        self._containers = containers
        self._wiring = wiring

    def observe(
        self, interest: Interest, remote_tags: RemoteTags, look: LookAtSync, *, may_set_sysctls: bool
    ) -> Observed:
        """What ``interest`` asks for, of the stacks named and of those that its source once held."""
        state = self._state
        source_stacks = state.generations.stacks_of(interest.source) if interest.source else frozenset()
        mine = None if interest.stacks is None else interest.stacks | source_stacks
        resources: dict[Address, ObservedResource] = {}
        others: dict[Address, ObservedFact | ObservedTag | ObservedSync | ObservedContainer] = {}
        leftovers: list[ObservedContainer] = []

        for address, fact in state.facts.all().items():
            ours = mine is None or bool(fact.stacks & mine)
            (resources if ours else others)[address] = fact
        self._add_networks(resources, mine, interest.addresses)
        self._add_volumes(resources, mine, interest.addresses)
        self._add_images(resources, mine)
        self._add_tags(resources, others, mine, interest.addresses, remote_tags(interest.remote_tags))
        self._add_syncs(resources, others, mine, interest, look)
        for row in state.containers.all():
            if row.address is None:
                continue
            seen = self._container(row, row.address, interest)
            if not _within(row.address, mine):
                others[row.address] = seen
            elif row.name is None:
                leftovers.append(seen)
            else:
                resources[row.address] = seen
        return Observed(
            root_id=state.identity.id if state.identity.exists else "",
            now=time.time(),
            resources=resources,
            leftovers=tuple(leftovers),
            blobs=frozenset(digest for digest in interest.blobs if state.content.has(digest)),
            source_stacks=source_stacks,
            other_stacks=others,
            forwarding=_forwarding(may_set_sysctls),
        )

    def _add_networks(
        self, resources: dict[Address, ObservedResource], mine: frozenset[str] | None, asked: frozenset[Address]
    ) -> None:
        rows = self._state.networks.all()
        rules = tuple(self._wiring.firewall.observe(self._wiring.firewall_state())) if rows else ()
        for address, row in rows.items():
            if "/" in address.name and _within(address, mine):
                resources[address] = ObservedNetwork(row.form, self._wiring.drift(row, rules))
        for address in asked - resources.keys():
            if address.kind == "network" and without_stack(address) in rows:
                resources[address] = ObservedNetwork(_EXTERNAL)

    def _add_volumes(
        self, resources: dict[Address, ObservedResource], mine: frozenset[str] | None, asked: frozenset[Address]
    ) -> None:
        rows = self._state.volumes.all()
        for address in asked:
            if address.kind == "volume" and address.name not in rows and address.short in rows:
                resources[address] = ObservedVolume(_EXTERNAL)
        for row in rows.values():
            if row.owner and _within(address := Address.parse(row.owner), mine):
                resources[address] = ObservedVolume(row.form)

    def _add_images(self, resources: dict[Address, ObservedResource], mine: frozenset[str] | None) -> None:
        state = self._state
        records = {record.digest: record for record in state.images.list()}
        named = {name.name: name.digest for name in state.names.list()}
        entries = state.entries.all()
        blobs = frozenset(state.content.digests()) if entries else frozenset()
        picks = state.picks.all() if entries else {}
        for address, entry in entries.items():
            digest = named.get(str(address))
            if digest is None or not _within(address, mine):
                continue
            record = records.get(digest)
            resources[address] = ObservedImage(
                entry.form,
                digest,
                complete=record is not None and blobs.issuperset(record.blobs),
                index=record.index_digest if record else None,
                commit=entry.commit,
                picked=picks.get(address, ""),
            )

    def _add_tags(
        self,
        resources: dict[Address, ObservedResource],
        others: dict[Address, ObservedFact | ObservedTag | ObservedSync | ObservedContainer],
        mine: frozenset[str] | None,
        asked: frozenset[Address],
        remote: Mapping[Address, RemoteTag],
    ) -> None:
        declared = self._state.tags.all()
        local = {name.name: name.digest for name in self._state.names.list()}
        by_hand = {address for address in asked if address.kind == "tag" and address.name in local}
        for address in declared.keys() | remote.keys() | by_hand:
            row = declared.get(address)
            seen = ObservedTag(
                local=local.get(address.name),
                stack=row.stack if row else "",
                form=row.form if row else {},
                remote=remote.get(address),
                pushed=row.pushed if row else None,
                repaired=row.repaired if row else 0,
            )
            if row is not None and mine is not None and row.stack not in mine:
                others[address] = seen
            else:
                resources[address] = seen

    def _add_syncs(
        self,
        resources: dict[Address, ObservedResource],
        others: dict[Address, ObservedFact | ObservedTag | ObservedSync | ObservedContainer],
        mine: frozenset[str] | None,
        interest: Interest,
        look: LookAtSync,
    ) -> None:
        """Those recorded and those asked about; the registries only of the latter, and not before they are due."""
        rows = self._state.syncs.all()
        now = time.time()
        for address in sorted(rows.keys() | interest.syncs.keys()):
            row = rows.get(address) or SyncRow({}, "")
            if row.stack and mine is not None and row.stack not in mine:
                others[address] = ObservedSync(row.form, row.stack)
                continue
            sync = interest.syncs.get(address)
            if sync is None and not row.stack:
                continue  # it was looked at and never recorded: a guard forbade the plan
            asked = sync is not None and (not interest.only_due or row.is_due(now) or row.form != form(sync))
            view = look(sync) if sync is not None and asked else None
            resources[address] = ObservedSync(
                row.form, row.stack, view, row.checked_at, row.due_at, row.counted, row.error
            )

    def _container(self, row: ContainerRow, address: Address, interest: Interest) -> ObservedContainer:
        found = self._containers.state_of(row)
        status: Status = "exited" if found.status == "absent" else found.status
        if found.running and not found.monitored:
            status = "unmonitored"
        finished = row.finished_at
        if status == "exited" and finished is None:
            finished = self._containers.ended_at(row)
        return ObservedContainer(
            id=row.id,
            address=address,
            form=row.form,
            status=status,
            image=row.image,
            exit_code=found.exit_code,
            oom=found.oom,
            run=row.run,
            streak=row.streak,
            started_at=row.started_at,
            finished_at=finished,
            discarded_bytes=self._usage(row) if address in interest.sizes else None,
            fingerprint=self._fingerprint(row) if address in interest.fingerprints and not found.running else None,
        )

    def _usage(self, row: ContainerRow) -> int:
        try:
            return self._state.snapshots.usage(row.id)
        except NotFoundError:
            return 0

    def _fingerprint(self, row: ContainerRow) -> str | None:
        try:
            return self._state.snapshots.fingerprint(row.id)
        except NotFoundError:
            return None


def _within(address: Address, stacks: frozenset[str] | None) -> bool:
    return stacks is None or address.stack in stacks


def _forwarding(allowed: bool) -> Literal["on", "off", "leave"]:
    if sysctl.forwarding():
        return "on"
    return "off" if allowed else "leave"
