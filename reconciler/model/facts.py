"""Facts from outside this host: known, known to be absent, or unknown. Unknown plans nothing."""

from __future__ import annotations

from reconciler.oci.digest import Digest
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class Known:
    """Somebody who must know answered with this digest."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Absent:
    """Somebody who must know said that there is no such thing. ``reason`` says why, as that of ``Unknown`` does, and
    ``hint`` what to do about it, where that is known."""

    reason: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody who must know answered. ``reason`` is one line, safe to print, and leaves it to the reader to
    say what was asked for. ``hint`` is what to do next, where somebody knows."""

    reason: str
    hint: str = ""


RemoteTag = Known | Absent | Unknown
