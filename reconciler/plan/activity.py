"""Whether a container should run now: jobs, services, failures and the next try. Pure."""

from __future__ import annotations

from typing import Literal

from reconciler.model.observed import ObservedContainer
from reconciler.model.policy import restart_delay
from reconciler.model.reason import Reason
from reconciler.model.resources import Container
from reconciler.value import dataclass

_NONE = Reason("", "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """``wait`` is a service that will be started at ``until``; ``failed`` a job that nobody runs again by itself."""

    kind: Literal["settled", "start", "stop", "restart", "failed", "wait"]
    reason: Reason = _NONE
    until: float = 0.0


SETTLED = Verdict("settled")


def judge(container: Container, found: ObservedContainer, now: float, *, asked: bool) -> Verdict:
    """What the state of a container that is made as its spec says asks for.

    ``asked`` says that a person asked: a failed job runs once more and no backoff is waited for.
    """
    if container.state == "stopped":
        return Verdict("stop", Reason("running", "it runs and is declared stopped")) if found.alive else SETTLED
    if found.status == "paused":
        return Verdict("start", Reason("paused", "it is paused"))
    if found.alive:
        return _live_drift(found)
    if found.status == "created":
        return Verdict("start", Reason("not-started", "it has never been started"))
    if container.restart.is_job:
        return _ended_job(container, found, now, asked)
    return _next_try(found, now, asked)


def ending(found: ObservedContainer) -> str:
    """How a container ended, for people."""
    if found.exit_code is None:
        return "it ended, and its exit code is lost"
    cause = " (out of memory)" if found.oom else ""
    return f"it exited with code {found.exit_code}{cause}"


def _live_drift(found: ObservedContainer) -> Verdict:
    if not found.drift:
        return SETTLED
    paths = ", ".join(drift.path for drift in found.drift)
    return Verdict("restart", Reason("drift", f"it is not as it was made: {paths}"))


def _ended_job(container: Container, found: ObservedContainer, now: float, asked: bool) -> Verdict:
    if found.succeeded:
        return SETTLED
    restart = container.restart
    if restart.policy == "on-failure" and (restart.attempts is None or found.streak < restart.attempts):
        return _next_try(found, now, asked)
    return Verdict("start" if asked else "failed", Reason("job-failed", ending(found)))


def _next_try(found: ObservedContainer, now: float, asked: bool) -> Verdict:
    reason = Reason("exited", ending(found))
    if not asked and found.finished_at is not None:
        delay = restart_delay(found.streak)
        # A clock that was set back must not hold a service down: only a start that is due soon is waited for.
        if 0 <= now - found.finished_at < delay:
            return Verdict("wait", reason, found.finished_at + delay)
    return Verdict("start", reason)
