"""A plan as text for a terminal: what, why, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.plan import words
from reconciler.plan.plan import Blocked, Change, Plan
from reconciler.printable import printable

_COLOURS = {"+": "32", "~": "33", "-": "31", "-/+": "35", "+/-": "35", "!": "31", "?": "33"}
_FAINT = "2"


def render(plan: Plan, *, colour: bool = False) -> str:
    """The plan, ending in a newline; its last line is the count of changes, or ``No changes.``

    Nothing from outside can move the cursor or start a line: control characters are shown as escapes.
    """
    paint = _Paint(colour)
    blocks = [_change(change, paint) for change in plan.changes]
    blocks += [_blocked(item, paint) for item in plan.blocked]
    if plan.notes:
        blocks.append("\n".join(f"Note: {printable(note)}" for note in plan.notes))
    if total := words.total_cost(plan.changes):
        blocks.append(f"Cost: {total}.")
    blocks.append(words.closing(plan))
    return "\n\n".join(blocks) + "\n"


class _Paint:
    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def mark(self, mark: str, width: int = 0) -> str:
        return self._in(_COLOURS[mark], f"{mark:>{width}}")

    def faint(self, text: str) -> str:
        return self._in(_FAINT, text)

    def _in(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and text else text


def _change(change: Change, paint: _Paint) -> str:
    head = f"{printable(str(change.address))} {words.phrase(change)}: {printable(change.reason.message)}"
    lines = [f"{paint.mark(words.MARKS[change.operation], 3)} {head}{_where(change, paint)}"]
    lines += _fields(change, paint)
    if cost := words.cost(change.cost):
        lines.append(f"      {paint.faint(f'cost: {cost}')}")
    return "\n".join(lines)


def _fields(change: Change, paint: _Paint) -> Iterator[str]:
    width = max((len(printable(field.path)) for field in change.fields), default=0)
    for field in change.fields:
        before, after = words.field_values(field)
        line = f"      {paint.mark(words.field_mark(field))} {printable(field.path):<{width}}  "
        line += f"{before} -> {after}" if before and after else before or after
        if field.replaces:
            line += paint.faint("  # may replace" if field.unknown else "  # replaces")
        yield line.rstrip()


def _blocked(item: Blocked, paint: _Paint) -> str:
    mark, state = ("!", "is blocked") if item.error else ("?", "waits")
    head = f"{printable(str(item.address))} {state}: {printable(item.reason.message)}"
    lines = [f"{paint.mark(mark, 3)} {head}{_where(item, paint)}"]
    if item.hint:
        lines.append(f"      {printable(item.hint)}")
    return "\n".join(lines)


def _where(item: Change | Blocked, paint: _Paint) -> str:
    where = words.place(item.location)
    return paint.faint(f"  ({where})") if where else ""
