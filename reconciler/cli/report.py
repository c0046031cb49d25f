"""The report of an apply: as JSON, a plan's shape with an outcome for each change; and what was moved, in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from reconciler.amount import size
from reconciler.apply.report import Moved
from reconciler.cli.step_words import spared_parts

if TYPE_CHECKING:
    from reconciler.apply.report import Report, StepResult
    from reconciler.plan.plan import Plan

# The worst that happened to any step of a resource is what happened to the resource.
_ORDER = ("failed", "blocked", "stopped", "done", "unchanged")


def document(plan: Plan, report: Report | None) -> dict[str, Any]:
    """``report`` None: there was nothing to do. ``blocked`` is what is blocked at the end, such as a failed job."""
    from reconciler.plan.json import document as plan_document

    content = plan_document(plan)
    results: dict[str, list[StepResult]] = {}
    for result in report.results if report else ():
        results.setdefault(str(result.address), []).append(result)
    for change in content["changes"]:
        change["outcome"] = _outcome(results.get(change["address"], []))
    if report is not None:
        content["blocked"] = plan_document(report.last)["blocked"]
    content["transfer"] = _transfer(report.moved if report else Moved())
    content["generation"] = report.generation if report else None
    content["error"] = str(report.error) if report and report.error else None
    content["converged"] = report.converged if report else not plan.errored
    return content


def _outcome(results: list[StepResult]) -> dict[str, Any]:
    transfer = _transfer(Moved.of(results))
    if not results:
        return {"status": "not-done", "error": None, "seconds": 0.0, "transfer": transfer}
    worst = min(results, key=lambda result: _ORDER.index(result.status))
    return {
        "status": worst.status,
        "error": str(worst.error) if worst.error else None,
        "seconds": round(sum(result.seconds for result in results), 3),
        "transfer": transfer,
    }


def _transfer(moved: Moved) -> dict[str, Any]:
    return asdict(moved) | {"pull_seconds": round(moved.pull_seconds, 3)}


def moved_words(moved: Moved) -> str:
    """``pulled 61.2 MB in 1.4 s, pushed 1.1 MB; 3 layers already there``; empty when nothing was to be moved."""
    went = [f"pulled {size(moved.pulled_bytes)} in {moved.pull_seconds:.1f} s"] if moved.pulled_bytes else []
    went += [f"pushed {size(moved.pushed_bytes)}"] if moved.pushed_bytes else []
    spared = spared_parts(moved.there_layers, moved.mounted_layers)
    return "; ".join(part for part in (", ".join(went), ", ".join(spared)) if part)
