"""Saved plans: what somebody saw and agreed to, so that an apply carries out that or nothing.

A saved plan names its sources and holds its pins, but no value of the specs that is not shown: an apply reads the
sources again, plans with the saved pins, and goes on only if the same work comes out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from reconciler.errors import InvalidError
from reconciler.model.address import Address
from reconciler.model.desired import Desired, Pin
from reconciler.model.observed import Observed
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import Sensitive
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.plan.json import FORMAT_VERSION, document
from reconciler.plan.plan import Plan, Step
from reconciler.value import dataclass

KIND = "reconciler/plan"
# They change from one look to the next without meaning anything for a plan.
_PASSING = frozenset(
    {"now", "bytes", "discarded_bytes", "started_at", "finished_at", "streak", "checked_at", "due_at", "counted"}
    | {"picked"}
)


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """``work`` is a digest of each step's action by step id; ``sources`` tells the caller where to read the specs."""

    root_id: str
    fingerprint: str
    sources: Mapping[str, Any]
    options: PlanOptions
    pins: Mapping[Address, Pin]
    work: Mapping[str, str] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)


def save(
    plan: Plan, desired: Desired, observed: Observed, *, sources: Mapping[str, Any], options: PlanOptions
) -> dict[str, Any]:
    """The plan as a JSON document, for a file of mode 0600. ``sources`` must be JSON values without secrets."""
    pins = {str(address): _pin(pin) for address, pin in desired.pins.items() if isinstance(pin, Pin)}
    return {
        "kind": KIND,
        **document(plan),
        "root_id": observed.root_id,
        "fingerprint": fingerprint(observed),
        "sources": dict(sources),
        "options": dataclasses.asdict(options),
        "pins": dict(sorted(pins.items())),
        "work": _work(plan),
    }


def load(content: Any) -> SavedPlan:
    """Reads what ``save`` gave. Raises ``InvalidError``."""
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise InvalidError("this is no saved plan", hint="make one with `reconciler plan PATH --out FILE`")
    if content.get("format_version") != FORMAT_VERSION:
        version = ascii(str(content.get("format_version"))[:20])
        raise InvalidError(f"the saved plan has format version {version}", hint="plan again with this version")
    try:
        return SavedPlan(
            root_id=_text(content["root_id"]),
            fingerprint=_text(content["fingerprint"]),
            sources=_object(content["sources"]),
            options=PlanOptions(**_object(content["options"])),
            pins={Address.parse(name): _read_pin(pin) for name, pin in _object(content["pins"]).items()},
            work={name: _text(value) for name, value in _object(content["work"]).items()},
            document=content,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidError(f"the saved plan is damaged: {error}", hint="plan again") from None


def same_work(saved: SavedPlan, plan: Plan) -> list[str]:
    """How the work of a plan made now differs from what was saved: one line each, none when it is the same."""
    now = _work(plan)
    lines = [f"no longer planned: {name}" for name in saved.work.keys() - now.keys()]
    lines += [f"now planned too: {name}" for name in now.keys() - saved.work.keys()]
    lines += [
        f"planned differently: {name}" for name in saved.work.keys() & now.keys() if saved.work[name] != now[name]
    ]
    return sorted(lines)


def fingerprint(observed: Observed) -> str:
    """A digest of all that was observed, but for what passes: clocks and sizes."""
    return _digest(observed)


def _work(plan: Plan) -> dict[str, str]:
    return {step.id: _digest(_normal_step(step)) for step in plan.steps}


def _normal_step(step: Step) -> Mapping[str, Any]:
    return {"action": type(step.action).__name__, "content": step.action, "deferred": bool(step.deferred)}


def _digest(value: Any) -> str:
    text = json.dumps(_normal(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _normal(value: Any) -> Any:
    """JSON values of any of our values: sets sorted, secrets as their seals."""
    if isinstance(value, Sensitive):
        return {"sensitive": value.seal}
    if isinstance(value, Address):
        return str(value)
    if dataclasses.is_dataclass(value):
        fields = (item.name for item in dataclasses.fields(value) if item.name not in _PASSING)
        return [type(value).__name__, {name: _normal(getattr(value, name)) for name in fields}]
    if isinstance(value, Mapping):
        return {str(key): _normal(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_normal(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, (list, tuple)):
        return [_normal(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _pin(pin: Pin) -> dict[str, Any]:
    return {
        "digest": str(pin.digest),
        "index": pin.index and str(pin.index),
        "blobs": [blob.to_json() for blob in pin.blobs],
        "answered_by": pin.answered_by,
        "note": pin.note,
        "tag": pin.tag,
        "why": pin.why,
    }


def _read_pin(value: Any) -> Pin:
    entry = _object(value)
    return Pin(
        digest=Digest(_text(entry["digest"])),
        index=Digest(_text(entry["index"])) if entry["index"] is not None else None,
        blobs=tuple(Descriptor.from_json(blob, "a blob of the saved plan") for blob in entry["blobs"]),
        answered_by=_text(entry["answered_by"]),
        note=_text(entry["note"]),
        tag=_text(entry["tag"]),
        why=_text(entry["why"]),
    )


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an object is expected")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text is expected")
    return value
