"""What the host is configured to mount: /etc/fstab and systemd's mount units, read only.

A directory on a disk of its own looks empty while the disk is not mounted. Who would take an empty directory for a new
one asks here first.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.linux.tree import mount_points_below

if TYPE_CHECKING:
    from collections.abc import Iterator

ETC = Path("/etc")
_ESCAPE = re.compile(r"\\([0-7]{3})")
_WHERE = re.compile(r"^\s*Where\s*=\s*(/.*?)\s*$", re.MULTILINE)


def unmounted_above(path: Path, etc: Path = ETC) -> tuple[Path, Path] | None:
    """The mount point at or above ``path`` that is configured though nothing is mounted there, and the file that
    says so; None when there is none. The root directory never counts, and a file that cannot be read says nothing.
    """
    real = Path(os.path.realpath(path))
    for target, source in _configured(etc):
        at_or_above = real == target or real.is_relative_to(target)
        if at_or_above and target != Path("/") and target not in mount_points_below(target):
            return target, source
    return None


def _configured(etc: Path) -> Iterator[tuple[Path, Path]]:
    fstab = etc / "fstab"
    for line in _text(fstab).splitlines():
        fields = line.split()
        # fstab(5): blanks are written as octal escapes; swap has no mount point.
        if len(fields) >= 2 and not line.lstrip().startswith("#") and fields[1].startswith("/"):
            target = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[1])
            yield Path(os.path.normpath(target)), fstab
    with contextlib.suppress(OSError):
        for unit in sorted((etc / "systemd" / "system").glob("*.mount")):
            for where in _WHERE.findall(_text(unit)):
                yield Path(os.path.normpath(where)), unit


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""
