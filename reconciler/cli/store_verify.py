"""``reconciler store verify``: whether the root keeps its promises; with ``--repair``, what can be mended is."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from reconciler.cli.context import Context
from reconciler.cli.table import size
from reconciler.printable import printable

if TYPE_CHECKING:
    from reconciler.engine.embedded.upkeep.repair import Repaired
    from reconciler.store.check.damage import Damage, Report

_SHOWN_DETAILS = 20
_EVERY = 0.1  # seconds between two updates of the line on a terminal


def run(context: Context, options: argparse.Namespace) -> int:
    """0 when nothing is damaged (any more), else 1."""
    repaired: Sequence[Repaired] = ()
    progress = _Line(context)
    if options.repair:
        from reconciler.engine.embedded.upkeep.repair import repair_root

        with context.engine() as engine:
            before, repaired, report = repair_root(
                engine, layers=options.layers, timeout=context.lock_timeout, progress=progress
            )
    else:
        from reconciler.engine.embedded.upkeep.verify import verify_root

        before = report = verify_root(context.root, layers=options.layers, progress=progress)
    progress.end()
    if options.output == "json":
        context.print(json.dumps(_document(report, before, repaired, asked=options.repair), indent=2))
    else:
        _print(context, report, repaired, asked=options.repair)
    return 0 if report.is_clean else 1


class _Line:
    """One line on a terminal that says how far the hashing is; silent elsewhere."""

    def __init__(self, context: Context) -> None:
        self._stream = context.stderr
        wanted = context.progress == "tty" or (context.progress == "auto" and context.stderr.isatty())
        self._next = 0.0 if wanted else float("inf")

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY
            self._stream.write(f"\r\x1b[Kreading blobs: {size(done)} of {size(total)}")
            self._stream.flush()

    def end(self) -> None:
        if 0.0 < self._next < float("inf"):
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _print(context: Context, report: Report, repaired: Sequence[Repaired], *, asked: bool) -> None:
    for item in repaired:
        context.print(printable(f"{'repaired' if item.done else 'NOT repaired'}: {item.kind} {item.id}: {item.text}"))
    for damage in report.damage:
        for line in _lines(damage):
            context.print(printable(line))
    for kind, count in sorted(Counter(item.kind for item in report.leftovers).items()):
        items = [item for item in report.leftovers if item.kind == kind]
        examples = ", ".join(item.id for item in items[:3]) + (", ..." if count > 3 else "")
        context.print(printable(f"left over: {count} {kind}, {size(sum(i.size for i in items))}: {examples}"))
    for note in report.notes:
        context.note(printable(note))
    context.print(_summary(report))
    if report.damage and not asked:
        context.note("repair what can be: reconciler store verify --repair")


def _lines(damage: Damage) -> list[str]:
    lines = [f"damage: {damage.kind} {damage.id} {damage.message}"]
    if damage.needed_by:
        lines.append(f"  needed by {', '.join(damage.needed_by)}")
    lines += [f"  {detail}" for detail in damage.details[:_SHOWN_DETAILS]]
    if len(damage.details) > _SHOWN_DETAILS:
        lines.append(f"  and {len(damage.details) - _SHOWN_DETAILS} more: see -o json")
    return lines


def _summary(report: Report) -> str:
    checked = report.checked
    parts = [f"{checked.blobs} blobs ({size(checked.hashed)})", f"{checked.images} images", f"{checked.layers} layers"]
    parts += [f"{checked.files} files in them"] if checked.files else []
    parts.append(f"{checked.containers} container{'' if checked.containers == 1 else 's'}")
    left = f", {len(report.leftovers)} left over (gc or the next apply takes them away)" if report.leftovers else ""
    return f"Checked {', '.join(parts)}: {len(report.damage) or 'nothing'} damaged{left}."


def _document(report: Report, before: Report, repaired: Sequence[Repaired], *, asked: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "format_version": "1.0",
        "clean": report.is_clean,
        "damage": [asdict(item) for item in report.damage],
        "left_over": [
            {"kind": item.kind, "id": item.id, "reason": item.why, "bytes": item.size} for item in report.leftovers
        ],
        "notes": list(report.notes),
        "checked": asdict(report.checked),
    }
    if asked:
        document["before"] = [asdict(item) for item in before.damage]
        document["repairs"] = [asdict(item) for item in repaired]
    return document
