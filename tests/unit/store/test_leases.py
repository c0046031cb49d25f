"""Leases: they hold as long as they must, whatever happens to clocks and owners."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from reconciler.oci.digest import Digest
from reconciler.store.collection import leases as leases_module
from reconciler.store.collection.leases import LeaseTable

if TYPE_CHECKING:
    from .conftest import Store

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")

OWNER = """
import os, signal, sys
from pathlib import Path
from reconciler.oci.digest import Digest
from reconciler.store.database import WritableDatabase
from reconciler.store.collection.leases import LeaseTable
from reconciler.store.schema import STORE
LeaseTable(WritableDatabase(Path(sys.argv[1]), (STORE,))).take("pull one", [Digest.of(b"one")])
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_owner(store: Store) -> None:
    code = subprocess.run([sys.executable, "-c", OWNER, str(store.root)], timeout=30).returncode
    assert code == -signal.SIGKILL


def boot_time_passes(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(leases_module, "_boot_time", lambda: now + seconds)


def test_a_lease_protects_until_it_is_released(store: Store) -> None:
    with store.leases.take("pull one", [ONE]) as lease:
        lease.add([TWO, ONE])
        assert store.leases.held() == {ONE: "pull one", TWO: "pull one"}
    assert store.leases.held() == {}
    assert store.database.query("SELECT * FROM lease_items") == []
    lease.release()


def test_two_leases_on_one_thing_hold_until_both_end(store: Store) -> None:
    first, second = store.leases.take("first", [ONE]), store.leases.take("second", [ONE])
    first.release()
    assert store.leases.held() == {ONE: "second"}
    second.release()
    assert store.leases.held() == {}


def test_a_lease_ends_when_its_block_fails(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.leases.take("pull", [ONE]):
        raise ZeroDivisionError
    assert store.leases.held() == {}


def test_a_lease_never_ends_while_its_owner_lives(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.leases.take("pull", [ONE])
    boot_time_passes(monkeypatch, 10 * 365 * 86400)
    assert store.leases.sweep() == 0
    assert store.leases.held() == {ONE: "pull"}


@pytest.mark.parametrize("years", [-1, 10])
def test_s23_a_wall_clock_that_jumps_ends_no_lease(store: Store, monkeypatch: pytest.MonkeyPatch, years: int) -> None:
    killed_owner(store)
    monkeypatch.setattr(time, "time", lambda: 1.8e9 + years * 365 * 86400)
    assert store.leases.sweep() == 0
    assert store.leases.held() == {ONE: "pull one"}


def test_s10_the_lease_of_a_killed_owner_outlasts_it_for_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_owner(store)
    assert store.leases.held() == {ONE: "pull one"}
    boot_time_passes(monkeypatch, leases_module.GRACE + 1)
    assert store.leases.held() == {}
    assert store.leases.sweep() == 1
    assert store.database.query("SELECT * FROM leases") == []


def test_a_reboot_ends_every_lease(store: Store) -> None:
    store.leases.take("pull", [ONE])
    with store.database.transaction() as connection:
        connection.execute("UPDATE leases SET boot_id = 'the one before'")
    assert store.leases.held() == {}
    assert store.leases.sweep() == 1


def test_a_pid_that_was_used_again_is_not_the_owner(store: Store) -> None:
    LeaseTable(store.database, grace=0).take("pull", [ONE])
    assert store.leases.held() == {ONE: "pull"}
    with store.database.transaction() as connection:
        connection.execute("UPDATE leases SET owner_start = owner_start - 1")
    assert store.leases.held() == {}
