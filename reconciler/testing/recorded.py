"""The servers that tests start, and what each of them was asked, for whoever looks through it afterwards.

``ROLL.is_kept = True`` makes every server of ``reconciler.testing`` known from then on; without it nothing is recorded
that would cost time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived. ``line`` is ``METHOD /path?query``; header names are in lower case."""

    line: str
    headers: Mapping[str, str]
    body: bytes = b""


class Recorded(Protocol):
    """A server that remembers."""

    @property
    def url(self) -> str:
        """``scheme://host:port``."""

    @property
    def host(self) -> str:
        """``host:port``, as it stands in references."""

    @property
    def asked(self) -> Sequence[Asked]:
        """All requests so far, in the order of their arrival."""

    @property
    def wants_login(self) -> bool:
        """Whether it has asked a client to log in, or is there to be logged in to."""

    @property
    def realms(self) -> set[str]:
        """The origins of the token servers that it named."""

    @property
    def issued(self) -> set[str]:
        """The tokens that it made."""


@dataclass(slots=True)
class _Entry:
    """A server, how many of its requests were read, and whether there can be more."""

    server: Recorded
    read: int = 0
    has_ended: bool = False


@dataclass(slots=True)
class Roll:
    """The servers of this process."""

    is_kept: bool = False
    _entries: list[_Entry] = field(default_factory=list)

    @contextmanager
    def entry(self, server: Recorded) -> Iterator[None]:
        """While the block runs, ``server`` does."""
        if not self.is_kept:
            yield
            return
        entry = _Entry(server)
        self._entries.append(entry)
        try:
            yield
        finally:
            entry.has_ended = True

    def news(self) -> list[tuple[Recorded, Sequence[Asked]]]:
        """The servers that run or did since the last call, each with what it was asked since then."""
        found = []
        for entry in self._entries:
            asked = entry.server.asked
            found.append((entry.server, asked[entry.read :]))
            entry.read = len(asked)
        self._entries = [entry for entry in self._entries if not entry.has_ended]
        return found


ROLL = Roll()
