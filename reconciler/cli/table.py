"""Tables and human units for listings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from reconciler.printable import printable


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart; what came from outside is made printable."""
    cells = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def size(count: int | None) -> str:
    """Bytes in decimal units, as Docker prints sizes: ``7.4MB``."""
    if count is None:
        return "?"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.3g}{unit}" if unit != "B" else f"{count}B"
        value /= 1000
    raise AssertionError("unreachable")


def ago(seconds: float) -> str:
    """How long ago something was, as people say it: ``3 minutes ago``; a moment in the future is ``just now``."""
    return f"{span(seconds)} ago" if seconds >= 5 else "just now"


def span(seconds: float) -> str:
    """A duration as people say it: ``3 minutes``."""
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}s"
    return f"{max(0, int(seconds))} seconds"


_DAY = 86400
_UNITS = (
    (365 * _DAY, "year"),
    (30 * _DAY, "month"),
    (7 * _DAY, "week"),
    (_DAY, "day"),
    (3600, "hour"),
    (60, "minute"),
)


def since(text: str, now: datetime) -> str:
    """How long ago an RFC 3339 date of an image was, or the text itself when it is no date."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text or "n/a"
    if moment.tzinfo is None:
        return text
    return ago((now - moment).total_seconds())
