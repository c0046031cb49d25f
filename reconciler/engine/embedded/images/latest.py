"""What images would be pinned to now, and keeping what was seen of their tags."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from reconciler.engine.embedded.images.tag_lists import TagLists
from reconciler.engine.embedded.images.track import Sightings, TrackedRepository
from reconciler.engine.tag_pick import Latest, latest
from reconciler.model.facts import Absent, Unknown
from reconciler.model.resources import Pull

if TYPE_CHECKING:
    from reconciler.engine.embedded.engine import EmbeddedEngine
    from reconciler.engine.port import HostFacts

_WORKERS = 8


def latest_of(
    engine: EmbeddedEngine, pulls: Iterable[Pull], hosts: HostFacts, sightings: Sightings
) -> dict[Pull, Latest | Absent | Unknown]:
    """What each would be pinned to now, asked in parallel. Writes nothing.

    What tags were seen to be, where age matters, is added to ``sightings``.
    """
    view, lists = engine.view(), TagLists()

    def ask(pull: Pull) -> Latest | Absent | Unknown:
        client = partial(engine.client, hosts)
        return latest(pull, TrackedRepository(pull, view.state, client, view.manifests, sightings, lists))

    questions = list(dict.fromkeys(pulls))
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="latest") as pool:
        return dict(zip(questions, pool.map(ask, questions), strict=True))


def note_sightings(engine: EmbeddedEngine, sightings: Sightings, timeout: float | None) -> None:
    """Keeps what was seen, for the ages of tags. Takes the turn, and makes the root if it is new."""
    with engine.turn(timeout):
        for repository, seen in sightings.items():
            engine.writer().state.tag_ledger.note(repository, seen, time.time())
