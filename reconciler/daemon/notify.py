"""Tells the service manager how we are, by sd_notify(3)."""

from __future__ import annotations

import contextlib
import socket

from reconciler.clock import Clock


class Notifier:
    """``address`` is the value of NOTIFY_SOCKET, ``watchdog`` the seconds of WATCHDOG_USEC; empty and None: silence.

    ``beat`` is to be called where there is progress, not from a timer: what stands still must not look alive (G32).
    """

    def __init__(self, clock: Clock, address: str = "", watchdog: float | None = None) -> None:
        self._clock = clock
        self._address = address
        self._period = watchdog / 3 if watchdog else None
        self._next_beat = 0.0

    @property
    def period(self) -> float | None:
        """At most how many seconds may pass between beats, with room to spare; None when nobody listens."""
        return self._period

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def beat(self) -> None:
        """Notes progress. Cheap enough to be called for every block of a download."""
        now = self._clock.monotonic()
        if self._period is not None and now >= self._next_beat:
            self._next_beat = now + self._period / 2
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # "@name" is the abstract socket of that name, unix(7).
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # A service manager that went away is no reason to stop working.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(message.encode(), address)
