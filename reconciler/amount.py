"""Amounts of bytes as people read them."""

from __future__ import annotations


def size(count: int) -> str:
    """Bytes for people, in powers of ten as registries count them: ``999 B``, ``1.2 kB``, ``34.0 MB``."""
    if count < 1000:
        return f"{count} B"
    scaled = float(count)
    for unit in ("kB", "MB", "GB"):
        scaled /= 1000
        if scaled < 999.95:
            return f"{scaled:.1f} {unit}"
    return f"{scaled / 1000:.1f} TB"
