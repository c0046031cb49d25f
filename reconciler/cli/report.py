"""The report of an apply as JSON: a plan's shape, with an outcome for each change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    content["generation"] = report.generation if report else None
    content["error"] = str(report.error) if report and report.error else None
    content["converged"] = report.converged if report else not plan.errored
    return content


def _outcome(results: list[StepResult]) -> dict[str, Any]:
    if not results:
        return {"status": "not-done", "error": None, "seconds": 0.0}
    worst = min(results, key=lambda result: _ORDER.index(result.status))
    return {
        "status": worst.status,
        "error": str(worst.error) if worst.error else None,
        "seconds": round(sum(result.seconds for result in results), 3),
    }
