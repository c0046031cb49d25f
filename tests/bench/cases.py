"""What is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.bench.engine import SLEEPERS, Engine

Step = Callable[[Engine], None]


def _nothing(_engine: Engine) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement. ``command`` is what is timed; None where the engine has no such thing."""

    name: str
    title: str
    images: tuple[str, ...]
    command: Callable[[Engine], list[str] | None]
    before_all: Step = _nothing
    before_each: Step = _nothing
    after_all: Step = _nothing
    measure: Literal["time", "memory"] = "time"


def _pull(image: str, what: str) -> Case:
    return Case(
        f"pull-{image}",
        f"cold pull of {what}",
        (image,),
        lambda engine: engine.pull(image),
        before_each=lambda engine: engine.forget(image),
        after_all=lambda engine: engine.forget(image),
    )


def _have(engine: Engine) -> None:
    engine.do(engine.pull("busybox"))


def _have_sleepers(engine: Engine) -> None:
    _have(engine)
    engine.do(engine.up("busybox"))


def _no_sleepers(engine: Engine) -> None:
    engine.do(engine.down())


CASES = (
    _pull("busybox", "busybox, 1 layer"),
    _pull("debian", "Debian minbase, 1 layer"),
    _pull("files", "Debian and 4 layers of small files"),
    _pull("layers", "busybox and 39 small layers"),
    Case(
        "pull-memory",
        "memory of a cold pull of Debian",
        ("debian",),
        lambda engine: engine.pull("debian"),
        before_each=lambda engine: engine.forget("debian"),
        after_all=lambda engine: engine.forget("debian"),
        measure="memory",
    ),
    Case("pull-again", "pull of what is there", ("busybox",), lambda engine: engine.pull("busybox"), before_all=_have),
    Case("run", "run --rm true, bridge", ("busybox",), lambda engine: engine.run("busybox", "true"), before_all=_have),
    Case(
        "converge",
        f"converge {SLEEPERS} containers from nothing",
        ("busybox",),
        lambda engine: engine.up("busybox"),
        before_all=_have,
        before_each=_no_sleepers,
        after_all=_no_sleepers,
    ),
    Case(
        "no-op",
        f"no-op plan of {SLEEPERS} containers",
        ("busybox",),
        lambda engine: engine.again("busybox"),
        before_all=_have_sleepers,
        after_all=_no_sleepers,
    ),
    Case(
        "list",
        f"list {SLEEPERS} containers",
        ("busybox",),
        lambda engine: engine.containers(),
        before_all=_have_sleepers,
        after_all=_no_sleepers,
    ),
    Case(
        "exec",
        "exec true",
        ("busybox",),
        lambda engine: engine.execute("true"),
        before_all=_have_sleepers,
        after_all=_no_sleepers,
    ),
    Case(
        "remove",
        f"remove {SLEEPERS} running containers",
        ("busybox",),
        lambda engine: engine.down(),
        before_each=_have_sleepers,
    ),
)
