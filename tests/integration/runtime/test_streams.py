"""Logs and terminals of containers on the real parts."""

from __future__ import annotations

import os
import pty
import signal
import termios
import threading
import time
from pathlib import Path

import pytest

from reconciler.errors import NotFoundError
from reconciler.runtime.logs import read_log
from reconciler.runtime.spec import ProcessSpec

pytestmark = pytest.mark.root


def test_log_of_both_streams(host):
    spec = host.spec("sh", "-c", "echo out; echo err >&2; printf rest")
    host.start(spec)
    host.runtime.wait(spec.id, 10)
    lines = list(read_log(host.log(spec)))
    assert {(line.stream, line.text, line.partial) for line in lines} == {
        ("stdout", b"out", False),
        ("stderr", b"err", False),
        ("stdout", b"rest", True),
    }


def test_follow_gives_everything_and_ends_with_the_container(host):
    spec = host.spec("sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.02; done")
    host.start(spec)
    assert [line.text for line in host.runtime.follow(spec.id)] == [b"line %d" % i for i in range(1, 6)]
    assert host.runtime.wait(spec.id, 10).exit_code == 0


def test_x49_a_flood_stays_under_the_limit_and_does_not_block(host):
    spec = host.spec("sh", "-c", "yes 0123456789abcdef | head -n 100000; echo done")
    host.start(spec, log_limit=256 * 1024)
    assert host.runtime.wait(spec.id, 30).exit_code == 0
    assert host.log(spec).stat().st_size <= 256 * 1024 + 4096
    assert [line.text for line in read_log(host.log(spec), tail=1)] == [b"done"]


def test_attached_before_start_misses_nothing(host):
    spec = host.spec("sh", "-c", "echo first; echo wrong >&2; cat; exit 2")
    host.create(spec, stdin=True)
    out, err, inward = os.pipe(), os.pipe(), os.pipe()
    with host.runtime.attach(spec.id) as attachment:
        host.runtime.start(spec.id)
        os.write(inward[1], b"typed\n")
        os.close(inward[1])
        assert attachment.relay(inward[0], out[1], err[1]) == "ended"
    assert host.runtime.wait(spec.id, 10).exit_code == 2
    for end in (out[1], err[1], inward[0]):
        os.close(end)
    with os.fdopen(out[0], "rb") as stdout, os.fdopen(err[0], "rb") as stderr:
        assert (stdout.read(), stderr.read()) == (b"first\ntyped\n", b"wrong\n")


def test_much_input_through_a_filter_does_not_lock_up(host):
    spec = host.spec("cat")
    host.create(spec, stdin=True)
    out, inward = os.pipe(), os.pipe()
    sent = os.urandom(1 << 20)
    received: list[bytes] = []

    def feed() -> None:
        with os.fdopen(inward[1], "wb") as sink:
            sink.write(sent)

    def drain() -> None:
        with os.fdopen(out[0], "rb") as source:
            received.append(source.read())

    threads = [threading.Thread(target=feed), threading.Thread(target=drain)]
    with host.runtime.attach(spec.id) as attachment:
        host.runtime.start(spec.id)
        for thread in threads:
            thread.start()
        assert attachment.relay(inward[0], out[1], out[1]) == "ended"
    os.close(out[1])
    os.close(inward[0])
    for thread in threads:
        thread.join(10)
    assert received == [sent]


def test_attach_to_an_ended_container(host):
    spec = host.spec("true")
    host.start(spec)
    host.runtime.wait(spec.id, 10)
    with pytest.raises(NotFoundError):
        host.runtime.attach(spec.id)


class Terminal:
    """A terminal with somebody at it: types, reads what is shown, changes its size."""

    def __init__(self, rows: int = 24, columns: int = 80) -> None:
        self.ours, self.theirs = pty.openpty()
        self.resize(rows, columns)
        self.shown = b""

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.theirs, (rows, columns))

    def type(self, data: bytes) -> None:
        os.write(self.ours, data)

    def read_until(self, text: bytes) -> None:
        deadline = time.monotonic() + 10
        os.set_blocking(self.ours, False)
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            try:
                self.shown += os.read(self.ours, 4096)
            except BlockingIOError:
                threading.Event().wait(0.005)

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def terminal():
    made = Terminal()
    yield made
    made.close()


def _at_terminal(host, spec, terminal, script):
    """Runs ``script`` as the person at the terminal while this thread relays; gives how the relay ended."""
    failures: list[BaseException] = []

    def person() -> None:
        try:
            script()
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            failures.append(error)
            host.runtime.kill(spec.id)

    thread = threading.Thread(target=person)
    before = termios.tcgetattr(terminal.theirs)
    with host.runtime.attach(spec.id) as attachment:
        host.runtime.start(spec.id)
        thread.start()
        result = attachment.relay(terminal.theirs, terminal.theirs, terminal.theirs, terminal=True)
    thread.join(10)
    assert not failures, failures
    assert termios.tcgetattr(terminal.theirs) == before
    return result


def test_terminal_session_with_resize(host, terminal):
    spec = host.spec("sh", terminal=True)
    host.create(spec, terminal=True, stdin=True)

    def wait_for_size(size: bytes, word: bytes) -> None:
        # The word is typed in two halves, so that it is not found in the echo of what was typed.
        terminal.type(
            b"until test \"$(stty size)\" = '%b'; do sleep 0.01; done; echo %b''%b\n" % (size, word[:2], word[2:])
        )
        terminal.read_until(word)

    def script() -> None:
        wait_for_size(b"24 80", b"first")
        terminal.resize(50, 132)
        os.kill(os.getpid(), signal.SIGWINCH)
        wait_for_size(b"50 132", b"second")
        terminal.type(b"exit 4\n")

    assert _at_terminal(host, spec, terminal, script) == "ended"
    assert host.runtime.wait(spec.id, 10).exit_code == 4


def test_detach_leaves_the_container_running(host, terminal):
    spec = host.spec("cat", terminal=True)
    host.create(spec, terminal=True, stdin=True)

    def script() -> None:
        terminal.type(b"hello\n")
        terminal.read_until(b"hello\r\nhello")
        terminal.type(b"\x10\x11")

    assert _at_terminal(host, spec, terminal, script) == "detached"
    assert host.runtime.state(spec.id).running


def test_x50_exec_leaves_no_descriptors(host):
    spec = host.spec("sleep", "1000")
    host.start(spec)
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    host.runtime.exec(spec.id, ProcessSpec(("true",)))
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
