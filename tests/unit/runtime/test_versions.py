"""X26: which versions will do."""

from __future__ import annotations

import pytest

from reconciler.errors import HostError
from reconciler.runtime.versions import check_versions, missing_fixes

_CONMON = "conmon version 2.1.6\ncommit: unknown\n"


def test_x26_the_distributions_version_is_a_warning():
    missing = check_versions("runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\n", _CONMON)
    assert "CVE-2024-21626" in missing


@pytest.mark.parametrize("version", [(1, 3, 6), (1, 4, 3), (1, 5, 0), (1, 5, 9), (2, 0, 0)])
def test_x26_fixed_releases(version):
    assert missing_fixes(version) == ()


@pytest.mark.parametrize("version", [(1, 3, 5), (1, 4, 2), (1, 2, 9)])
def test_x26_releases_before_the_last_fix(version):
    assert missing_fixes(version) == ("CVE-2026-41579",)


@pytest.mark.parametrize(
    ("runc", "conmon"),
    [("runc version 1.0.3\n", _CONMON), ("runc version 1.1.5\n", "conmon version 2.0.25\n"), ("gibberish", _CONMON)],
)
def test_x26_too_old_or_unknown_is_an_error(runc, conmon):
    with pytest.raises(HostError):
        check_versions(runc, conmon)


def test_crun_is_not_judged_by_runcs_numbers():
    assert check_versions("crun version 0.17\n", _CONMON) == ()
