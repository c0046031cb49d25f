"""Filesystems for the engines' data.

ext4 without a journal, as many virtual machines have it, makes files up to ten times slower for minutes after a big
deletion (its allocator avoids inodes that were deleted lately). So each engine gets a fresh one with a journal.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BYTES = 6 << 30


@contextmanager
def fresh_filesystem(work: Path, name: str) -> Iterator[Path]:
    """A new ext4 filesystem in a sparse file, mounted at the directory it gives; both are gone afterwards."""
    image, place = work / f"{name}.img", work / name
    with image.open("wb") as file:
        file.truncate(_BYTES)
    # Lazy initialisation would go on in the background, into the measurements.
    lazy = "lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mkfs.ext4", "-q", "-O", "has_journal", "-E", lazy, str(image)], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        image.unlink()
