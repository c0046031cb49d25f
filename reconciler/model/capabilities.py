"""What an engine can do, as data for the planner."""

from __future__ import annotations

from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """``in_place`` names the container fields that change without a new container; ``unsupported`` fields (of the
    canonical forms, as ``kind.field``) are plan errors."""

    in_place: frozenset[str] = frozenset({"restart", "stop_signal", "stop_grace_period", "labels"})
    unsupported: frozenset[str] = frozenset()
