"""Processes that are not our children: who they are, whether they live, and signalling them safely.

A pid is reused within hours on a busy host (``pid_max`` may be 32768), so a pid on record proves nothing by itself.
``ProcessId`` adds the start time, which no later process of the same boot can share, and the boot id.
"""

from __future__ import annotations

import os
import select
import signal
from functools import cache
from pathlib import Path

from reconciler.errors import InvalidError
from reconciler.value import dataclass

_STATE_FIELD = 0  # counted after the command name; proc_pid_stat(5) numbers it 3
_START_FIELD = 19  # proc_pid_stat(5) numbers it 22


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for all time: its pid, its start in clock ticks after boot, and which boot that was."""

    pid: int
    start_time: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The identity of a process that runs now, or None when there is none."""
        start = start_time(pid)
        return None if start is None else cls(pid, start, boot_id())

    def alive(self) -> bool:
        """True while it runs. A zombie has ended: it can neither be signalled nor do harm."""
        return self.boot_id == boot_id() and start_time(self.pid) == self.start_time

    def open(self) -> int | None:
        """A pidfd of it (the caller closes it), or None when it has ended.

        The descriptor is opened first and the start time is compared after: what the descriptor names cannot change
        any more, so a recycled pid is found out.
        """
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive():
            return pidfd
        os.close(pidfd)
        return None

    def signal(self, number: int) -> bool:
        """Sends a signal; False when it has ended already. Never reaches another process."""
        pidfd = self.open()
        if pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True

    def wait(self, timeout: float | None) -> bool:
        """Waits until it has ended, at most ``timeout`` seconds (None: for ever). True when it has ended."""
        pidfd = self.open()
        if pidfd is None:
            return True
        try:
            return wait_readable(pidfd, timeout)
        finally:
            os.close(pidfd)


def wait_readable(descriptor: int, timeout: float | None) -> bool:
    """True when ``descriptor`` is readable within ``timeout`` seconds; a pidfd is readable once its process ended."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(None if timeout is None else max(0, timeout * 1000)))


def signal_number(text: str) -> int:
    """The signal that ``text`` means: ``SIGTERM``, ``term``, ``15``, ``RTMIN+3``. Raises ``InvalidError``."""
    name, plus, offset = text.upper().removeprefix("SIG").partition("+")
    try:
        if name.isascii() and name.isdigit():
            return int(signal.Signals(int(name)))
        number = signal.Signals["SIG" + name] + (int(offset) if plus else 0)
    except (KeyError, ValueError):
        number = 0
    in_range = signal.SIGRTMIN <= number <= signal.SIGRTMAX if plus else number > 0
    if not in_range:
        raise InvalidError(f"{text!r} is not a signal", hint="Write a name such as SIGTERM, or a number.")
    return number


def start_time(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Clock ticks between boot and the start of a process, or None when it has ended or is a zombie."""
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may itself hold any byte, parentheses and blanks included.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[_STATE_FIELD] in (b"Z", b"X"):
        return None
    return int(fields[_START_FIELD])


@cache
def boot_id() -> str:
    """The random id that the kernel gave to this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
