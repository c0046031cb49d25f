"""What is measured."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.bench.archives import COUNTS, names
from tests.bench.engine import SLEEPERS, Engine, one_after_another
from tests.bench.images import TAGS, tags

Step = Callable[[Engine], None]


def _nothing(_engine: Engine) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement. ``command`` is what is timed; None where the engine has no such thing.

    ``images`` are those of the registry and ``archives`` the docker-archives that it needs.
    """

    name: str
    title: str
    images: tuple[str, ...]
    command: Callable[[Engine], list[str] | None]
    before_all: Step = _nothing
    before_each: Step = _nothing
    after_all: Step = _nothing
    measure: Literal["time", "memory"] = "time"
    archives: tuple[str, ...] = ()
    factor: Callable[[Engine], float] = lambda _engine: 1.0
    """What the time of a command is multiplied by, where it does only a part."""


def _pull(image: str, what: str) -> Case:
    return Case(
        f"pull-{image}",
        f"cold pull of {what}",
        (image,),
        lambda engine: engine.pull(image),
        before_each=lambda engine: engine.forget(f"{engine.host}/{image}"),
        after_all=lambda engine: engine.forget(f"{engine.host}/{image}"),
    )


def _have(engine: Engine) -> None:
    engine.do(engine.pull("busybox"))


def _have_sleepers(engine: Engine) -> None:
    _have(engine)
    engine.do(engine.up("busybox"))


def _no_sleepers(engine: Engine) -> None:
    engine.do(engine.down())


def _load(archive: str, what: str) -> Case:
    return Case(
        f"load-{archive}",
        f"load of {what} from an archive",
        (),
        lambda engine: engine.load(engine.archives[archive]),
        before_each=lambda engine: engine.forget(*names(archive)),
        after_all=lambda engine: engine.forget(*names(archive)),
        archives=(archive,),
    )


def _commit(name: str, what: str, script: str, *, push: bool = False) -> Case:
    def reference(engine: Engine) -> str:
        return f"{engine.host}/{engine.name}/{name}:latest"

    def command(engine: Engine) -> list[str] | None:
        commit = engine.commit(reference(engine))
        return one_after_another(commit, engine.push(reference(engine))) if push else commit

    def write(engine: Engine) -> None:
        engine.do(engine.remove_writer())
        # Content that no run has seen before, so that the registry has none of it.
        engine.do(engine.write("busybox", script.replace("SEED", uuid.uuid4().hex)))

    def end(engine: Engine) -> None:
        engine.do(engine.remove_writer())
        engine.do(engine.remove([reference(engine)]))

    title = f"commit and push of {what}" if push else f"commit of {what}"
    kind = "push" if push else "commit"
    return Case(f"{kind}-{name}", title, ("busybox",), command, before_all=_have, before_each=write, after_all=end)


def _push_change() -> Case:
    def reference(engine: Engine) -> str:
        return f"{engine.host}/{engine.name}/changed:latest"

    def change(engine: Engine) -> None:
        engine.do(engine.change("layers", reference(engine)))

    def begin(engine: Engine) -> None:
        engine.forget(f"{engine.host}/layers")
        engine.do(engine.pull("layers"))
        change(engine)
        engine.do(engine.push(reference(engine)))

    def end(engine: Engine) -> None:
        engine.do(engine.remove_writer())
        engine.do(engine.remove([reference(engine)]))

    return Case(
        "push-change",
        "push of 1 changed layer of 41",
        ("layers",),
        lambda engine: engine.push(reference(engine)),
        before_all=begin,
        before_each=change,
        after_all=end,
    )


def _sync(name: str, what: str, *, again: bool) -> Case:
    places: dict[str, str] = {}

    def command(engine: Engine) -> list[str] | None:
        return engine.sync("sync", places.setdefault(engine.name, uuid.uuid4().hex))

    def begin(engine: Engine) -> None:
        engine.do(command(engine))

    def begin_anew(engine: Engine) -> None:
        places.pop(engine.name, None)

    title = f"sync of {TAGS['sync']} tags, {what}"
    if again:
        return Case(name, title, ("sync",), command, before_all=begin)
    return Case(name, title, ("sync",), command, before_each=begin_anew)


def _resolve() -> Case:
    def part(engine: Engine) -> list[str]:
        return tags("resolve")[: None if engine.resolves_at_once else _RESOLVED]

    return Case(
        "resolve",
        f"resolve {TAGS['resolve']} tags (peers: {_RESOLVED}, times {TAGS['resolve'] // _RESOLVED})",
        ("resolve",),
        lambda engine: engine.resolve("resolve", part(engine)),
        factor=lambda engine: TAGS["resolve"] / len(part(engine)),
    )


_RESOLVED = 20  # of those that need a command for each tag; their time is multiplied
_BIG_FILE = "busybox dd if=/dev/urandom of=/big bs=1M count=10 2>/dev/null"
_FILES = "busybox mkdir /f; i=0; while [ $i -lt 5000 ]; do echo SEED $i >/f/$i; i=$((i+1)); done"


CASES = (
    _pull("busybox", "busybox, 1 layer"),
    _pull("debian", "Debian minbase, 1 layer"),
    _pull("files", "Debian and 4 layers of small files"),
    _pull("layers", "busybox and 39 small layers"),
    _load("debian", "Debian minbase"),
    _commit("big", "10 MB", _BIG_FILE),
    _commit("files", "5,000 files", _FILES),
    _commit("big", "10 MB", _BIG_FILE, push=True),
    _commit("files", "5,000 files", _FILES, push=True),
    Case(
        "remove-images",
        f"remove {COUNTS['hundred']} images",
        (),
        lambda engine: engine.remove(names("hundred")),
        before_each=lambda engine: engine.do(engine.load(engine.archives["hundred"])),
        archives=("hundred",),
    ),
    Case(
        "list-images",
        f"list images with {COUNTS['tags']} tags",
        (),
        lambda engine: engine.images(),
        before_all=lambda engine: engine.do(engine.load(engine.archives["tags"])),
        after_all=lambda engine: engine.forget(*names("tags")),
        archives=("tags",),
    ),
    Case(
        "pull-memory",
        "memory of a cold pull of Debian",
        ("debian",),
        lambda engine: engine.pull("debian"),
        before_each=lambda engine: engine.forget(f"{engine.host}/debian"),
        after_all=lambda engine: engine.forget(f"{engine.host}/debian"),
        measure="memory",
    ),
    Case(
        "pull-again", "pull of what is there", ("busybox",), lambda engine: engine.refresh("busybox"), before_all=_have
    ),
    _push_change(),
    _sync("sync-new", "none there", again=False),
    _sync("sync-again", "all there", again=True),
    _resolve(),
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
