"""The words of a plan: marks, phrases, values and sizes, shared by its renderings. Everything here is safe to print."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from reconciler.amount import size
from reconciler.model.desired import Location
from reconciler.model.selection import span
from reconciler.plan.plan import Change, Cost, FieldChange, Operation, Plan
from reconciler.printable import printable

KNOWN_AFTER_APPLY = "(known after apply)"
MARKS: Mapping[Operation, str] = {
    "create": "+",
    "update": "~",
    "replace": "-/+",
    "replace-create-first": "+/-",
    "delete": "-",
    "start": "~",
    "stop": "~",
}
_VERBS: Mapping[Operation, str] = {
    "create": "created",
    "update": "changed",
    "replace": "replaced",
    "replace-create-first": "replaced",
    "delete": "removed",
    "start": "started",
    "stop": "stopped",
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_LONGEST_VALUE = 160


def phrase(change: Change) -> str:
    """``will be replaced``, or ``may be replaced`` while only the apply can tell."""
    return f"{'may' if change.tentative else 'will'} be {_VERBS[change.operation]}"


def closing(plan: Plan) -> str:
    """The last line of a plan."""
    if plan.empty:
        return "No changes."
    count = plan.summary
    return (
        f"Plan: {count['create']} to create, {count['change']} to change, "
        f"{count['replace']} to replace, {count['delete']} to delete."
    )


def place(location: Location | None) -> str:
    """``file:line``, or nothing."""
    return printable(f"{location.file}:{location.line}") if location else ""


def field_mark(field: FieldChange) -> str:
    if field.before is None and (field.after is not None or field.unknown):
        return "+"
    return "-" if field.after is None and not field.unknown else "~"


def field_values(field: FieldChange) -> tuple[str, str]:
    """What was and what will be; either is empty where there is nothing to say."""
    before = "" if field.before is None else value(field.path, field.before)
    if field.unknown:
        return before, KNOWN_AFTER_APPLY
    return before, "" if field.after is None else value(field.path, field.after)


def value(path: str, content: Any) -> str:
    """A value as people write it: digests short, ports, mounts, sizes, times and modes as in a spec, text in quotes."""
    name = path.partition("[")[0]
    if isinstance(content, str):
        text = content if content == "(sensitive)" or path == "image" else json.dumps(content, ensure_ascii=False)
        if _DIGEST.fullmatch(content):
            return content[:19]
        return _clip(printable(content[:12] if path.endswith(".sha256") else text))
    if name == "ports" and isinstance(content, list):
        return _clip(printable(", ".join(_port(port) for port in content)))
    if name == "mounts" and isinstance(content, Mapping):
        return _clip(printable(_mount(content)))
    if name in ("networks", "stacks") and isinstance(content, list):
        return _clip(printable(", ".join(str(item) for item in content)))
    if name in ("secrets", "configs") and isinstance(content, Mapping):
        return _clip(printable(_file(content)))
    if isinstance(content, (int, float)) and (words := _WORDS_OF_NUMBERS.get(path.rpartition(".")[2])):
        return words(content)
    return _clip(printable(json.dumps(content, ensure_ascii=False, sort_keys=True)))


def _clip(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}... ({len(text)} characters)"


def _port(port: Mapping[str, Any]) -> str:
    address = str(port.get("host_address", ""))
    address = f"[{address}]" if ":" in address else address
    host_port = str(port.get("host_port", ""))
    # An address with no port of the host keeps its place: 127.0.0.1::80, where 127.0.0.1:80 would mean port 80.
    published = [address, host_port] if address else [host_port] if host_port else []
    protocol = port.get("protocol", "tcp")
    return ":".join([*published, str(port["container_port"])]) + ("" if protocol == "tcp" else f"/{protocol}")


def _mount(mount: Mapping[str, Any]) -> str:
    source = mount.get("source") or f"({'anonymous' if mount.get('kind') == 'volume' else mount.get('kind')})"
    tree = f" at tree {str(mount['tree'])[:12]}" if mount.get("tree") else ""
    return f"{source}{tree}" + (" (read-only)" if mount.get("read_only") else "")


def _file(file: Mapping[str, Any]) -> str:
    owner = "".join(f", {key} {file[key]}" for key in ("uid", "gid") if file.get(key))
    mode = f", mode {_mode(file['mode'])}" if "mode" in file else ""
    return f"at {file['target']}{owner}{mode}: {value('content', file['content'])}"


def _memory(count: float) -> str:
    for unit, factor in (("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)):
        if count >= factor and count % factor == 0:
            return f"{int(count) // factor}{unit}"
    return str(count)


def _mode(mode: float) -> str:
    return f"0{int(mode):03o}"


_WORDS_OF_NUMBERS: Mapping[str, Callable[[float], str]] = {
    "mem_limit": _memory,
    "mode": _mode,
    "stop_grace_period": lambda seconds: f"{seconds:g}s",
    "interval": span,
    "min_age": span,
}


def cost(item: Cost) -> str:
    """``pull 34.0 MB, discards 1.0 kB, downtime``; empty for what costs nothing."""
    return ", ".join(_cost_parts(item))


def _cost_parts(item: Cost) -> Iterator[str]:
    for label, amount in (("pull", item.pull_bytes), ("push", item.push_bytes)):
        if amount is None:
            yield f"{label} unknown"
        elif amount:
            yield f"{label} {size(amount)}"
    if item.disk_bytes:
        yield f"disk {size(item.disk_bytes)}"
    if item.discarded_bytes is None:
        yield "discards data of unknown size"
    elif item.discarded_bytes:
        yield f"discards {size(item.discarded_bytes)}"
    if item.downtime:
        yield "downtime"


def total_cost(changes: Iterable[Change]) -> str:
    """What the whole plan costs, in one line without its end; empty when it costs nothing."""
    costs = [change.cost for change in changes]
    parts = []
    for label, amounts in (
        ("pull", [item.pull_bytes for item in costs]),
        ("push", [item.push_bytes for item in costs]),
        ("discard", [item.discarded_bytes for item in costs]),
    ):
        known = sum(amount for amount in amounts if amount)
        unknown = None in amounts
        if known or unknown:
            parts.append(f"{label} " + (size(known) + (" or more" if unknown else "") if known else "unknown"))
    interrupted = sum(item.downtime for item in costs)
    if interrupted:
        parts.append(f"interrupts {interrupted} container" + "s" * (interrupted != 1))
    return ", ".join(parts)
