"""Two registries and a root whose syncs go from the one to the other."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reconciler.apply.report import Report
from reconciler.engine.embedded.engine import EmbeddedEngine
from reconciler.engine.embedded.registries import Surroundings
from reconciler.model.address import Address
from reconciler.model.observed import ObservedSync
from reconciler.model.policy import PlanOptions
from reconciler.model.resources import Registry
from reconciler.oci.reference import Reference
from reconciler.plan.plan import Plan
from reconciler.reconcile import PassReport, Session, look, prepare
from reconciler.testing.builders import Stack
from reconciler.testing.served_registry import ServedRegistry


class SyncWorld:
    """``source`` and ``target`` each hold a repository ``app``; ``fields`` are those of the sync between them."""

    def __init__(
        self,
        place: Path,
        source: ServedRegistry | None = None,
        target: ServedRegistry | None = None,
        *,
        auth_files: Sequence[Path] = (),
        **fields: Any,
    ) -> None:
        self.source = source or ServedRegistry()
        self.target = target or ServedRegistry()
        self.fields = fields
        self.notes: list[str] = []
        self.engine = EmbeddedEngine(place / "root", Surroundings(auth_files=auth_files, note=self.notes.append))
        self._held = ExitStack()

    def __enter__(self) -> Self:
        for registry in dict.fromkeys((self.source, self.target)):
            self._held.enter_context(registry)
        self._held.enter_context(self.engine)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run = self.engine.run_directory
        self._held.__exit__(kind, error, trace)
        shutil.rmtree(run, ignore_errors=True)

    @property
    def address(self) -> Address:
        return Address("sync", Reference.parse(f"{self.target.host}/app").name)

    def stack(self) -> Stack:
        stack = Stack("mirrors")
        for registry in (self.source, self.target):
            stack.add(Address("registry", registry.host), Registry(registry.host, plain_http=True))
        stack.sync(f"{self.target.host}/app", f"{self.source.host}/app", **self.fields)
        return stack

    def plan(self, stack: Stack | None = None, **options: Any) -> Plan:
        desired = prepare((stack or self.stack()).desired(), self.engine)
        return look(desired, self.engine, PlanOptions(**{"asked": True, **options}))[1]

    def apply(self, stack: Stack | None = None, **options: Any) -> Report:
        session = self.session(stack, **{"asked": True, **options})
        return session.converge(look(session.desired, self.engine, session.options)[1])

    def one_pass(self, exclude: Collection[Address] = ()) -> PassReport:
        """What a daemon does once."""
        return self.session().one_pass(exclude)

    def session(self, stack: Stack | None = None, **options: Any) -> Session:
        desired = prepare((stack or self.stack()).desired(), self.engine)
        wanted = PlanOptions(**options)
        return Session(desired, self.engine, wanted, lambda _: None, lambda *_: None, threading.Event())

    def status(self) -> ObservedSync:
        found = self.engine.view().state.syncs.all()[self.address]
        return ObservedSync(found.form, found.stack, None, found.checked_at, found.due_at, found.counted, found.error)


def fields(plan: Plan) -> dict[str, tuple[Any, Any]]:
    """What a plan would change of tags and referrers: before and after."""
    found = [field for change in plan.changes for field in change.fields]
    return {field.path: (field.before, field.after) for field in found if "[" in field.path}


def said(plan: Plan) -> str:
    """The errors of a plan."""
    return "\n".join(f"{item.reason.message} ({item.hint})" for item in plan.blocked)
