"""What the service manager hears."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.clock import ManualClock
from reconciler.daemon.notify import Notifier


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def _heard(listener: socket.socket) -> list[bytes]:
    heard = []
    while True:
        try:
            heard.append(listener.recv(100))
        except BlockingIOError:
            return heard


def test_g32_beats_follow_progress_and_are_not_sent_more_often_than_needed(
    listener: socket.socket, tmp_path: Path
) -> None:
    clock = ManualClock()
    notifier = Notifier(clock, str(tmp_path / "notify"), watchdog=6)
    notifier.ready()
    for _ in range(10):
        notifier.beat()
    clock.advance(2)
    notifier.beat()
    clock.advance(60)
    notifier.stopping()
    assert _heard(listener) == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_without_a_listener_nothing_happens(tmp_path: Path) -> None:
    for notifier in (Notifier(ManualClock()), Notifier(ManualClock(), str(tmp_path / "gone"), watchdog=1)):
        notifier.ready()
        notifier.beat()
    assert Notifier(ManualClock()).period is None
