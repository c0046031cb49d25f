"""Tables, units, states in words, and reports: what people and programs read."""

from __future__ import annotations

import argparse
import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.apply.report import Report, StepResult
from reconciler.cli.apply import _print_report
from reconciler.cli.context import Context, auth_files, proxies
from reconciler.cli.report import document
from reconciler.cli.status import _daemon_lines, describe
from reconciler.cli.table import ago, since, size, table
from reconciler.daemon.conditions import BadRevision, Conditions, DaemonStatus
from reconciler.engine.port import Outcome
from reconciler.errors import HostError, LockedError
from reconciler.model.action import ReleaseVolume
from reconciler.model.address import Address
from reconciler.model.observed import ObservedContainer
from reconciler.model.reason import Reason
from reconciler.oci.digest import Digest
from reconciler.plan.plan import Blocked, Change, Plan, Step

WEB = Address("container", "shop/web")
DATA = Address("volume", "shop/data")
STEP = Step(ReleaseVolume(DATA))


def context(**fields: object) -> Context:
    made = Context(Path("/root-directory"), {}, io.StringIO(), io.StringIO())
    return replace(made, **fields)  # type: ignore[arg-type]


def written(made: Context) -> tuple[str, str]:
    assert isinstance(made.stdout, io.StringIO) and isinstance(made.stderr, io.StringIO)
    return made.stdout.getvalue(), made.stderr.getvalue()


def test_a_cell_cannot_break_the_table() -> None:
    shown = table(("NAME", "STATE"), [("web\n\x1b[2J", "up"), ("a", "")])
    assert shown.splitlines() == ["NAME          STATE", "web\\n\\x1b[2J  up", "a"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "?"), (0, "0B"), (999, "999B"), (1000, "1kB"), (7_400_000, "7.4MB"), (10**15, "1e+03TB")],
)
def test_sizes_are_decimal_as_docker_prints_them(count: int | None, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-100, "just now"),
        (4.9, "just now"),
        (59, "59 seconds ago"),
        (120, "2 minutes ago"),
        (7200, "2 hours ago"),
        (86400 * 3, "3 days ago"),
        (86400 * 365 * 2, "2 years ago"),
    ],
)
def test_ages(seconds: float, shown: str) -> None:
    assert ago(seconds) == shown


def test_dates_of_images_that_are_none_are_shown_as_they_are() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert since("2026-01-01T00:00:00Z", now) == "24 hours ago"
    assert since("", now) == "n/a"
    assert since("long ago", now) == "long ago"


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"status": "created"}, "created"),
        ({"status": "running", "started_at": 40.0}, "running, started 60 seconds ago"),
        ({"status": "running", "started_at": 40.0, "streak": 2}, "running, started 60 seconds ago, restart 2"),
        ({"status": "exited", "exit_code": 1, "finished_at": 90.0}, "exited (1) 10 seconds ago"),
        ({"status": "exited", "exit_code": None, "finished_at": 90.0}, "exited (unknown) 10 seconds ago"),
        ({"status": "exited", "exit_code": 137, "oom": True}, "exited (137, out of memory) just now"),
    ],
)
def test_states_in_words(fields: dict[str, object], shown: str) -> None:
    seen = ObservedContainer("1" * 64, WEB, {}, "created", Digest.of(b""))
    assert describe(replace(seen, **fields), 100.0) == shown  # type: ignore[arg-type]


def result(**fields: object) -> StepResult:
    return replace(StepResult(STEP.id, DATA, "release", "done", Outcome(bytes_pulled=1000)), **fields)  # type: ignore[arg-type]


# Reports


def test_the_outcome_of_a_change_is_the_worst_of_its_steps() -> None:
    plan = Plan(
        changes=(Change(DATA, "delete", Reason("left", "it left the specs")), Change(WEB, "create", Reason("", "")))
    )
    report = Report(plan, plan, (result(seconds=1), result(status="failed", outcome=None, error=HostError("no"))))
    shown = document(plan, report)
    outcomes = {change["address"]: change["outcome"] for change in shown["changes"]}
    failed = outcomes["volume/shop/data"]
    assert (failed["status"], failed["error"], failed["seconds"]) == ("failed", "no", 1.0)
    assert outcomes["container/shop/web"]["status"] == "not-done"
    assert (shown["converged"], shown["generation"], shown["error"]) == (False, None, None)


def test_a_job_that_failed_during_an_apply_is_in_its_report() -> None:
    job = Blocked(WEB, Reason("job-failed", "it exited with code 9"))
    started = replace(result(outcome=Outcome()), address=WEB, verb="start")
    report = Report(Plan(), Plan(blocked=(job,)), (started,))
    shown = document(Plan(), report)
    assert [item["address"] for item in shown["blocked"]] == ["container/shop/web"]
    assert shown["converged"] is False
    made = context()
    _print_report(made, argparse.Namespace(output="text"), report, Plan())
    out, err = written(made)
    assert out == "Not converged: 1 step done, 0 failed; 0 changes left, 1 resource blocked.\n"
    assert err == "container/shop/web: it exited with code 9\n"


def test_what_ended_an_apply_early_is_in_its_report() -> None:
    report = Report(Plan(), Plan(), (result(),), error=LockedError("another writer"))
    assert document(Plan(), report)["error"] == "another writer"
    assert document(Plan(), None)["converged"] is True


# The environment


def test_http_proxy_in_capitals_is_ignored_and_lower_case_wins() -> None:
    variables = {"HTTP_PROXY": "a", "HTTPS_PROXY": "b", "https_proxy": "c", "NO_PROXY": "d", "http_proxy": ""}
    assert proxies(variables) == {"https_proxy": "c", "no_proxy": "d"}


def test_logins_of_docker_and_podman_are_known() -> None:
    found = auth_files({"HOME": "/h", "REGISTRY_AUTH_FILE": "/r", "XDG_RUNTIME_DIR": "/x", "DOCKER_CONFIG": "/d"})
    assert list(map(str, found)) == [
        "/r",
        "/d/config.json",
        "/x/containers/auth.json",
        "/h/.config/containers/auth.json",
    ]


def test_the_problems_of_a_bad_revision_are_told_line_by_line_inside_its_own() -> None:
    bad = BadRevision("0123456789abcdef", "a.yaml:1:1: one\n  mend it\na.yaml:2:1: \x1b[2J", "", False, "now")
    _, *lines = _daemon_lines(DaemonStatus(1, True, Conditions("dir:/specs", bad=bad)))
    assert "\n".join(lines).splitlines() == [
        "  Revision 0123456789ab is not applied since now: a.yaml:1:1: one",
        "      mend it",
        "    a.yaml:2:1: \\x1b[2J",
    ]
