"""What a confined process can no longer do. In processes of their own, since nothing is given back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_is_imported_from_files_any_more() -> None:
    code = """
import encodings, sys
from reconciler.linux import confine
confine.import_no_more()
import marshal, zipimport
for name in ("json", "encodings.idna", "reconciler.errors", "csv"):
    sys.modules.pop(name, None)
    try:
        __import__(name)
    except ImportError:
        print(name)
"""
    assert run(code).split() == ["json", "encodings.idna", "reconciler.errors", "csv"]


@pytest.mark.root
def test_capabilities_are_gone_for_good_and_the_rest_of_the_files_too(tmp_path: Path) -> None:
    code = """
import os, socket, sys
from reconciler.linux import confine
directory = os.open(sys.argv[1], os.O_RDONLY)
confine.keep_only((confine.CHOWN, confine.SYS_CHROOT))
confine.enter_root(directory)
os.chown("file", 5, 5)
print(os.listdir("/"), os.getcwd())
for attempt in (
    lambda: os.mknod("device", 0o20600, 1),
    lambda: os.chroot("/missing"),
    lambda: os.nice(-5),
    lambda: open("/proc/self/status"),
):
    try:
        attempt()
    except OSError as error:
        print(error.errno)
"""
    (tmp_path / "file").touch()
    assert run(code, str(tmp_path)).splitlines() == ["['file'] /", "1", "2", "1", "2"]
    assert os.stat(tmp_path / "file").st_uid == 5  # noqa: PTH116
