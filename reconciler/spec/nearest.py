"""The nearest name to one that was not found, for hints."""

from __future__ import annotations

from collections.abc import Iterable


def distance(left: str, right: str, limit: int) -> int:
    """The edit distance (Levenshtein, a swap of neighbours counts one), or ``limit + 1`` when it is larger."""
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, previous, row = row, before, [i]
        for j, b in enumerate(right, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, previous[j - 2] + 1)
            row.append(cost)
    return min(row[-1], limit + 1)


def nearest(name: str, known: Iterable[str], limit: int = 2) -> str | None:
    """The closest of ``known`` within ``limit`` edits, the first in order among equals; None if there is none."""
    if len(name) > 100:
        return None
    found = [(distance(name, candidate, limit), candidate) for candidate in known]
    best = min(found, default=(limit + 1, ""))
    return best[1] if best[0] <= limit else None
