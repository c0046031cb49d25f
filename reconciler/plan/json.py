"""A plan as JSON, format version 1.0: the shape that programs rely on."""

from __future__ import annotations

from typing import Any

from reconciler.model.desired import Location
from reconciler.plan.plan import Blocked, Change, FieldChange, Operation, Plan, Step

FORMAT_VERSION = "1.0"
_ACTIONS: dict[Operation, list[str]] = {
    "create": ["create"],
    "update": ["update"],
    "replace": ["delete", "create"],
    "replace-create-first": ["create", "delete"],
    "delete": ["delete"],
    "start": ["start"],
    "stop": ["stop"],
}


def document(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values. Sensitive values are not in it."""
    return {
        "format_version": FORMAT_VERSION,
        "changes": [_change(change) for change in plan.changes],
        "steps": [_step(step) for step in plan.steps],
        "blocked": [_blocked(item) for item in plan.blocked],
        "notes": list(plan.notes),
        "summary": dict(plan.summary),
        "errored": plan.errored,
    }


def _change(change: Change) -> dict[str, Any]:
    cost = change.cost
    return {
        "address": str(change.address),
        "actions": list(_ACTIONS[change.operation]),
        "reason": change.reason.code,
        "message": change.reason.message,
        "fields": [_field(field) for field in change.fields],
        "source": _source(change.location),
        "cost": {
            "pull_bytes": cost.pull_bytes,
            "push_bytes": cost.push_bytes,
            "disk_bytes": cost.disk_bytes,
            "discarded_bytes": cost.discarded_bytes,
            "downtime": cost.downtime,
        },
    }


def _field(field: FieldChange) -> dict[str, Any]:
    return {
        "path": field.path,
        "before": field.before,
        "after": field.after,
        "replaces": field.replaces,
        "unknown": field.unknown,
        "sensitive": field.sensitive,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "id": step.id,
        "action": step.action.verb,
        "address": str(step.action.address),
        "needs": list(step.needs),
    }


def _blocked(item: Blocked) -> dict[str, Any]:
    return {
        "address": str(item.address),
        "reason": item.reason.code,
        "message": item.reason.message,
        "hint": item.hint,
        "source": _source(item.location),
        "error": item.error,
    }


def _source(location: Location | None) -> dict[str, Any] | None:
    return {"file": location.file, "line": location.line, "column": location.column} if location else None
