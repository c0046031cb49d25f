"""How a step of an apply ended, and what was moved, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.amount import size

if TYPE_CHECKING:
    from reconciler.apply.report import StepResult
    from reconciler.engine.port import Outcome

_STATUS = {"done": "done", "unchanged": "unchanged", "failed": "FAILED", "blocked": "blocked", "stopped": "not begun"}


def ending(result: StepResult) -> str:
    """``done in 1.4 s (61.2 MB pulled, 3 layers already there)``, or why not."""
    text = _STATUS[result.status]
    if result.status == "done" and result.outcome is not None:
        moved = ", ".join(moved_parts(result.outcome))
        text += f" in {result.seconds:.1f} s" + (f" ({moved})" if moved else "")
    if result.error is not None:
        text += f": {failure(result)}"
    if result.blocked_by:
        text += f": it needs {result.blocked_by}"
    return text


def failure(result: StepResult) -> str:
    """Why a step failed, and what to do about it."""
    assert result.error is not None
    return f"{result.error} ({result.error.hint})" if result.error.hint else str(result.error)


def moved_parts(outcome: Outcome) -> list[str]:
    """What one action moved, and what it did not have to."""
    parts = [f"{size(outcome.bytes_pulled)} pulled"] if outcome.bytes_pulled else []
    parts += [f"{size(outcome.bytes_pushed)} pushed"] if outcome.bytes_pushed else []
    return parts + spared_parts(outcome.layers_there, outcome.layers_mounted)


def spared_parts(there: int, mounted: int) -> list[str]:
    """``3 layers already there``, ``1 layer mounted``: what did not have to go over the network."""
    counted = ((there, "already there"), (mounted, "mounted"))
    return [f"{count} layer{'s' * (count != 1)} {what}" for count, what in counted if count]
