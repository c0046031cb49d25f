"""The containers of the reference engine: made, started, ended and found again, all in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from reconciler.clock import Clock
from reconciler.engine.port import Event, Outcome
from reconciler.errors import ConflictError, NotFoundError
from reconciler.model import action as act
from reconciler.model.address import Address
from reconciler.model.canonical import Form, form_digest
from reconciler.model.observed import CommitKey, Drift, ObservedContainer
from reconciler.model.policy import next_streak
from reconciler.oci.digest import Digest

STOPPED = 143
"""The exit code of a container that was asked to stop (128 + SIGTERM)."""


class MemoryContainers:
    """Containers by id, and which of them has the name of its address: the one made last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all: dict[str, ObservedContainer] = {}
        self._named: dict[Address, str] = {}
        self._made = 0
        self.events: list[Event] = []

    def named(self) -> Iterator[ObservedContainer]:
        return (self._all[id_] for id_ in self._named.values())

    def leftovers(self) -> Iterator[ObservedContainer]:
        return (found for found in self._all.values() if self._named.get(found.address) != found.id)

    def alive(self) -> Iterator[ObservedContainer]:
        return (found for found in self._all.values() if found.alive)

    def create(self, action: act.CreateContainer) -> Outcome:
        if action.image is None:
            raise NotFoundError(f"{action.address} has no image yet", hint="plan again")
        current = self._named.get(action.address)
        if current and current != action.replaces and self._all[current].form == action.form:
            return Outcome(changed=False)
        if current and current != action.replaces:
            raise ConflictError(f"{action.address} exists already", hint="plan again")
        self._made += 1
        id_ = Digest.of(f"{action.address} {self._made}".encode()).hex
        self._all[id_] = ObservedContainer(id_, action.address, action.form, "created", action.image, discarded_bytes=0)
        self._named[action.address] = id_
        return Outcome()

    def start(self, action: act.StartContainer) -> Outcome:
        found = self.get(action.container_id or self._named.get(action.address, ""), action.address)
        if found.status == "paused":
            return self._change(found, status="running")
        if found.alive:
            return Outcome(changed=False)
        ran_for = (found.finished_at or 0.0) - (found.started_at or 0.0)
        streak = next_streak(found.streak, ran_for) if found.run else 0
        return self._change(
            found,
            status="running",
            exit_code=None,
            oom=False,
            run=found.run + 1,
            streak=streak,
            started_at=self._now(),
            finished_at=None,
            discarded_bytes=1000,
            drift=(),
        )

    def stop(self, container_id: str) -> Outcome:
        found = self._all.get(container_id)
        if found is None or not found.alive:
            return Outcome(changed=False)
        return self._change(found, status="exited", exit_code=STOPPED, finished_at=self._now())

    def remove(self, container_id: str) -> Outcome:
        found = self._all.pop(container_id, None)
        if found and self._named.get(found.address) == found.id:
            del self._named[found.address]
        return Outcome(changed=found is not None)

    def update(self, container_id: str, address: Address, form: Form) -> Outcome:
        return self._change(self.get(container_id, address), form=form)

    def get(self, container_id: str, address: Address) -> ObservedContainer:
        """Raises ``NotFoundError``."""
        found = self._all.get(container_id)
        if found is None:
            raise NotFoundError(f"{address} has no container {container_id[:12]}", hint="plan again")
        return found

    def at(self, address: Address) -> ObservedContainer:
        return self.get(self._named.get(address, ""), address)

    def end(self, address: Address, exit_code: int, *, oom: bool = False) -> None:
        """The main process of a running container ends."""
        found = self.at(address)
        self._change(found, status="exited", exit_code=exit_code, oom=oom, finished_at=self._now())
        self.events.append(Event(address, "exited"))

    def drift(self, address: Address, *drifts: Drift) -> None:
        self._change(self.at(address), drift=drifts)

    def pause(self, address: Address) -> None:
        self._change(self.at(address), status="paused")

    def _change(self, found: ObservedContainer, **fields: object) -> Outcome:
        changed = replace(found, **fields)  # type: ignore[arg-type]
        self._all[found.id] = changed
        return Outcome(changed != found)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def fingerprint(found: ObservedContainer) -> str:
    """What the container wrote: here that follows from what it ran, and from nothing that changes in place."""
    return form_digest({name: found.form.get(name) for name in ("image", "entrypoint", "command", "environment")})


def commit_key(found: ObservedContainer) -> CommitKey:
    """What a commit of the container would be taken of."""
    return CommitKey(found.id, found.run, fingerprint(found))


def share_a_port(one: Form, other: Form) -> bool:
    """Whether two forms publish one host port."""
    pairs = ((a, b) for a in one.get("ports", ()) for b in other.get("ports", ()))
    return any(
        a.get("host_port") is not None
        and (a["host_port"], a.get("protocol")) == (b.get("host_port"), b.get("protocol"))
        and (a.get("host_address") == b.get("host_address") or not a.get("host_address") or not b.get("host_address"))
        for a, b in pairs
    )


def is_job(form: Form) -> bool:
    """Whether a form is a job's: it runs to completion."""
    return not str(form.get("restart", "unless-stopped")).startswith(("always", "unless-stopped"))
