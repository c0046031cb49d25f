"""Waiting for containers to end, on pidfds, without holding the turn."""

from __future__ import annotations

import os
import select

from reconciler.engine.embedded.containers.lifecycle import Containers
from reconciler.engine.embedded.state import State
from reconciler.engine.port import Event
from reconciler.errors import NotFoundError


def wait_for_exit(state: State, containers: Containers, timeout: float) -> list[Event]:
    """The containers that ended within ``timeout`` seconds, as soon as there is one.

    What ended before the call and was not yet recorded counts as ended now.
    """
    watched: dict[int, Event] = {}
    try:
        for row in state.containers.all():
            if row.started_at is None or row.finished_at is not None:
                continue
            event = Event(row.address, "exited")
            try:
                task = containers.task(row)
            except NotFoundError:
                return [event]
            # conmon ends after it wrote the exit code, so its end is the one to wait for.
            handle = (task.monitor if task.monitor.alive() else task.init).open()
            if handle is None:
                return [event]
            watched[handle] = event
        poll = select.poll()
        for handle in watched:
            poll.register(handle, select.POLLIN)
        return [watched[handle] for handle, _ in poll.poll(timeout * 1000)]
    finally:
        for handle in watched:
            os.close(handle)
