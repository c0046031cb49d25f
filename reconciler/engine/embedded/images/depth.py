"""How many layers an image may have: as many as the kernel mounts on each other.

Asked wherever a manifest is read first, so that an image that could never run costs no download.
"""

from __future__ import annotations

from reconciler.errors import InvalidError
from reconciler.linux.mounts import MAX_LOWERS


def check_depth(layers: int, what: str) -> None:
    """Raises ``InvalidError`` when ``what`` has more layers than can be mounted."""
    if layers > MAX_LOWERS:
        raise InvalidError(
            f"{what} has {layers} layers, and Linux can mount {MAX_LOWERS} on each other",
            hint="build it with fewer layers: with fewer instructions, or squashed",
        )
