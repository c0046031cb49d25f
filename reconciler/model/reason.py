"""Why something is planned: a stable code for programs and a sentence for people."""

from __future__ import annotations

from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """``code`` is kebab-case and part of the JSON contract; ``message`` is one sentence without a full stop."""

    code: str
    message: str
