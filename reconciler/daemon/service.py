"""The daemon as a process: signals, and everything that has to be up while the loop runs."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from reconciler.daemon.loop import Loop
from reconciler.daemon.wakeups import Wakeups
from reconciler.daemon.watch import ContainerWatch, SpecWatch

_STOP = (signal.SIGTERM, signal.SIGINT)


def serve(
    loop: Loop, *, wakeups: Wakeups, stop: threading.Event, specs: SpecWatch, containers: ContainerWatch
) -> signal.Signals | None:
    """Runs ``loop`` in this, the main thread, until SIGTERM or SIGINT; returns which it was.

    A step in flight is finished first. SIGHUP asks for a pass at once. The caller holds the ``Board``.
    """
    received: list[signal.Signals] = []
    with ExitStack() as held:
        held.enter_context(_signals(wakeups, stop, received))
        held.enter_context(specs)
        held.enter_context(containers)
        loop.run(stop)
    return received[0] if received else None


@contextmanager
def _signals(wakeups: Wakeups, stop: threading.Event, received: list[signal.Signals]) -> Iterator[None]:
    # A handler interrupts any line of the main thread, which may hold the very lock that an event needs; putting into
    # this queue is the one thing that is safe there. A thread does the rest.
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()

    def forward() -> None:
        while number := arrived.get():
            if number == signal.SIGHUP:
                wakeups.post("asked")
            else:
                received.append(signal.Signals(number))
                stop.set()
                wakeups.post("stop")

    before = {
        number: signal.signal(number, lambda number, _: arrived.put(number)) for number in (*_STOP, signal.SIGHUP)
    }
    thread = threading.Thread(target=forward, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        arrived.put(0)
        thread.join()
