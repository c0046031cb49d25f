"""Which versions of the OCI runtime and of conmon will do."""

from __future__ import annotations

import re

from reconciler.errors import HostError
from reconciler.log import Logger

_LOG = Logger("runtime")
_RUNC_MINIMUM = (1, 1, 0)
_CONMON_MINIMUM = (2, 1, 0)
# For each fix: the first release of each series that has it, newest series first. Older series never got it.
_FIXES: tuple[tuple[str, tuple[tuple[int, int, int], ...]], ...] = (
    ("CVE-2024-21626", ((1, 1, 12),)),
    ("CVE-2025-31133, CVE-2025-52565, CVE-2025-52881", ((1, 4, 0), (1, 3, 3), (1, 2, 8))),
    ("CVE-2026-41579", ((1, 5, 0), (1, 4, 3), (1, 3, 6))),
)


def check_versions(runc: str, conmon: str) -> tuple[str, ...]:
    """Judges what the two programs print for ``--version``; gives, and logs, the fixes that runc's number lacks.

    Distributions carry fixes over without a new number, so a missing one is a warning. Raises ``HostError`` below the
    versions that we need at all.
    """
    version = _require(runc, "runc", _RUNC_MINIMUM)
    _require(conmon, "conmon", _CONMON_MINIMUM)
    if not runc.startswith("runc"):  # crun and others count otherwise
        return ()
    missing = missing_fixes(version)
    if missing:
        _LOG.warning("runc-may-lack-fixes", version=".".join(map(str, version)), fixes=", ".join(missing))
    return missing


def missing_fixes(version: tuple[int, int, int]) -> tuple[str, ...]:
    """The known fixes that a release of runc with this number came without."""
    return tuple(name for name, firsts in _FIXES if not _has(version, firsts))


def _has(version: tuple[int, int, int], firsts: tuple[tuple[int, int, int], ...]) -> bool:
    if version >= firsts[0]:
        return True
    return any(version[:2] == first[:2] and version >= first for first in firsts[1:])


def _require(text: str, program: str, minimum: tuple[int, int, int]) -> tuple[int, int, int]:
    match = re.search(r"version:? (\d+)\.(\d+)(?:\.(\d+))?", text)
    if match is None:
        raise HostError(f"cannot tell the version of {program} from {text[:80]!r}", hint=f"Reinstall {program}.")
    version = (int(match[1]), int(match[2]), int(match[3] or 0))
    needed = ".".join(map(str, minimum))
    if text.startswith(program) and version < minimum:
        found = ".".join(map(str, version))
        raise HostError(f"{program} {found} is older than {needed}", hint=f"Upgrade {program} to at least {needed}.")
    return version
