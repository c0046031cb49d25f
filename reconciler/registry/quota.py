"""What a server says of how often it may still be asked: Docker Hub's headers, and the kinds that others use.

Docker Hub sends ``RateLimit-Limit: 100;w=21600`` and ``RateLimit-Remaining: 76;w=21600`` with manifests, where HEAD
costs nothing. Others send plain numbers, ``X-RateLimit-Remaining``, or the one header of the IETF's drafts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta

from reconciler.value import dataclass

_NUMBER = re.compile(r"\s*(\d{1,12})\s*(?:;.*)?", re.ASCII | re.DOTALL)
_WINDOW = re.compile(r";\s*w\s*=\s*(\d{1,9})", re.ASCII)
_DRAFT = re.compile(r"(?:^|[\s,;])(r|remaining|limit|q|t|reset)\s*=\s*(\d{1,12})", re.ASCII)
_DEFAULT_WINDOW = 3600


@dataclass(frozen=True, slots=True)
class Quota:
    """How many requests the server named ``name`` will still answer, as it said at ``seen_at``.

    ``limit`` is None when it did not say. At ``renewed_at`` the number means nothing any more.
    """

    name: str
    remaining: int
    limit: int | None
    seen_at: datetime
    renewed_at: datetime

    def floor(self, most: int, highest: int = 0) -> int:
        """How many of its requests to leave to others: ``most``, but no more than a tenth of what there are in all.

        ``highest`` is the greatest number that it ever said is left, for a server that tells no limit.
        """
        whole = self.limit or max(highest, self.remaining)
        return min(most, whole // 10)


def read_quota(name: str, headers: Mapping[str, str], now: datetime) -> Quota | None:
    """What an answer's headers (any case) tell; None when they tell nothing."""
    drafted = {found: int(number) for found, number in _DRAFT.findall(headers.get("ratelimit", ""))}
    given = headers.get("ratelimit-remaining") or headers.get("x-ratelimit-remaining") or ""
    remaining = _number(given)
    if remaining is None:
        remaining = drafted.get("remaining", drafted.get("r"))
    if remaining is None:
        return None
    limit = _number(headers.get("ratelimit-limit") or headers.get("x-ratelimit-limit") or "")
    reset = _number(headers.get("ratelimit-reset", ""))
    window = _WINDOW.search(given)
    seconds = reset or drafted.get("reset") or drafted.get("t") or (int(window[1]) if window else _DEFAULT_WINDOW)
    if limit is None:
        limit = drafted.get("limit", drafted.get("q"))
    return Quota(name, remaining, limit, now, now + timedelta(seconds=min(seconds, 7 * 24 * 3600)))


def _number(text: str) -> int | None:
    match = _NUMBER.fullmatch(text)
    return int(match[1]) if match else None
