"""Networks and volumes: what containers stand on."""

from __future__ import annotations

from reconciler.model import canonical
from reconciler.model.action import EnsureNetwork, EnsureVolume, RemoveNetwork
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.observed import Drift, ObservedNetwork, ObservedVolume
from reconciler.model.resources import Network, Volume
from reconciler.plan.diff import diff
from reconciler.plan.draft import OPEN, Draft, Gate
from reconciler.plan.plan import FieldChange, Operation

_NETWORK_IN_PLACE = frozenset({"labels"})


def plan_network(draft: Draft, address: Address, network: Network) -> None:
    """Makes the network, mends it, or makes it anew where its subnet changed."""
    found = draft.current(address, ObservedNetwork)
    if network.external:
        _require_external(draft, address, found is not None)
        return
    forwarding = draft.observed.forwarding
    if forwarding == "leave":
        draft.block(
            address,
            "forwarding-forbidden",
            "it needs net.ipv4.ip_forward = 1, which is 0, and host.yaml says `sysctls: leave`",
            "set net.ipv4.ip_forward yourself, or take `sysctls: leave` out of host.yaml",
        )
        return
    form = canonical.form(network)
    fields = diff(found.form if found else {}, form, in_place=_NETWORK_IN_PLACE if found else None)
    if forwarding == "off" and not _announced(draft):
        fields = (*fields, FieldChange("sysctl.net.ipv4.ip_forward", "0", "1"))
    if found is None:
        _ensure(draft, address, network, form, "create", "missing", "it is declared and not there", fields)
    elif any(field.replaces for field in fields):
        draft.recreated.add(address)
        message = "its subnet changed, so it and the running containers on it are made anew"
        draft.change(address, "replace", "changed", message, fields)
        removal = draft.step(RemoveNetwork(address))
        draft.ready[address] = draft.step(EnsureNetwork(address, network, form), Gate((removal,)))
    elif found.drift:
        fields = (*fields, *drift_fields(found.drift))
        _ensure(draft, address, network, form, "update", "drift", "it is not as it was made", fields)
    elif fields:
        code, message = ("changed", "its labels changed") if form != found.form else ("drift", "forwarding is off")
        _ensure(draft, address, network, form, "update", code, message, fields)


def plan_volume(draft: Draft, address: Address, volume: Volume) -> None:
    """Makes the volume, or changes its labels. Its data is never touched."""
    found = draft.current(address, ObservedVolume)
    if volume.external:
        _require_external(draft, address, found is not None)
        return
    form = canonical.form(volume)
    if found is not None and found.form == form:
        return
    if found is None:
        draft.change(address, "create", "missing", "it is declared and not there", diff({}, form))
    else:
        draft.change(address, "update", "changed", "its fields changed; its data stays", diff(found.form, form))
    draft.ready[address] = draft.step(EnsureVolume(address, volume, form), OPEN)


def drift_fields(drifts: tuple[Drift, ...]) -> tuple[FieldChange, ...]:
    """What is live, and what it goes back to."""
    return tuple(FieldChange(drift.path, drift.actual, drift.expected) for drift in drifts)


def _ensure(
    draft: Draft,
    address: Address,
    network: Network,
    form: Form,
    operation: Operation,
    code: str,
    message: str,
    fields: tuple[FieldChange, ...],
) -> None:
    draft.change(address, operation, code, message, fields)
    draft.ready[address] = draft.step(EnsureNetwork(address, network, form))


def _announced(draft: Draft) -> bool:
    """Whether an earlier network of this plan turns forwarding on already."""
    return any(address.kind == "network" and change.operation != "delete" for address, change in draft.changes.items())


def _require_external(draft: Draft, address: Address, found: bool) -> None:
    if not found:
        draft.block(
            address,
            "external-missing",
            f"it is `external: true` and there is no such {address.kind}",
            f"make the {address.kind} first, or take `external: true` away to have it made",
        )
