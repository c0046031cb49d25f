"""A plan as Markdown, for a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable

from reconciler.plan import text, words
from reconciler.plan.plan import Blocked, Plan
from reconciler.printable import printable

LIMIT = 65_000
"""Characters: GitHub refuses a comment of more than 65,536."""
_ROOM_FOR_ENDS = 500
_ACTIVE = re.compile(r"([\\`*_{}\[\]<>|#~@&])")


def render(plan: Plan) -> str:
    """A summary, a table, and the whole plan to unfold; whatever does not fit is counted instead."""
    parts = [f"**{words.closing(plan)}**"]
    if total := words.total_cost(plan.changes):
        parts.append(f"Cost: {total}.")
    room = LIMIT - _ROOM_FOR_ENDS - sum(map(len, parts))
    if plan.changes:
        table = _table(plan, room // 2)
        parts.append(table)
        room -= len(table)
    if plan.blocked:
        blocked = _listed((_blocked_line(item) for item in plan.blocked), room // 2, "blocked")
        parts.append(blocked)
        room -= len(blocked)
    if plan.changes:
        parts.append(_details(plan, room))
    return "\n\n".join(parts) + "\n"


def _table(plan: Plan, room: int) -> str:
    head = "| | Resource | Change | Why | Where |\n|---|---|---|---|---|\n"
    rows = (
        f"| {_code(words.MARKS[change.operation])} | {_code(str(change.address))} | {words.phrase(change)} "
        f"| {_escaped(change.reason.message)} | {_escaped(words.place(change.location))} |"
        for change in plan.changes
    )
    return head + _listed(rows, room - len(head), "changes")


def _blocked_line(item: Blocked) -> str:
    state = "is blocked" if item.error else "waits"
    hint = f" ({_escaped(item.hint)})" if item.hint else ""
    return f"- {_code(str(item.address))} {state}: {_escaped(item.reason.message)}{hint}"


def _listed(lines: Iterable[str], room: int, noun: str) -> str:
    """As many lines as there is room for, and how many more there are."""
    kept: list[str] = []
    left_out = 0
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            left_out += 1
        else:
            kept.append(line)
    return "\n".join(kept) + (f"\n\n... and {left_out} more {noun}." if left_out else "")


def _details(plan: Plan, room: int) -> str:
    whole = text.render(plan)
    cut = (
        whole if len(whole) <= room else whole[: max(room, 0)].rpartition("\n")[0] + "\n(cut: too long for a comment)\n"
    )
    longest = max((len(run) for run in re.findall(r"`+", cut)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"<details><summary>Details</summary>\n\n{fence}text\n{cut}{fence}\n\n</details>"


def _code(content: str) -> str:
    """Inline code in a table cell: backticks and pipes cannot be escaped inside code, so such text goes without."""
    shown = printable(content)
    return f"`{shown}`" if not re.search(r"[`|]", shown) else _escaped(content)


def _escaped(content: str) -> str:
    return _ACTIVE.sub(r"\\\1", printable(content))
