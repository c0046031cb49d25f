"""Many processes pull, name, run, remove and collect on one root at once, and nothing that is needed is ever lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reconciler.engine.embedded.engine import EmbeddedEngine
from reconciler.engine.embedded.state import open_writer
from reconciler.engine.embedded.upkeep.collect import Collection, collect
from reconciler.engine.embedded.upkeep.verify import verify_root
from reconciler.store.identity import prepare_root
from reconciler.testing.history import NAMES, check_image, samples
from reconciler.testing.verdict import summary, violations

pytestmark = [pytest.mark.root, pytest.mark.timeout(24 * 3600)]

# Who plays in one round and in the next: with writers below the root's lock, and all in turns.
_CASTS = (("writer", "writer", "tenant", "tenant", "tenant", "operator"), ("tenant",) * 5 + ("operator",))
_ROUNDS, _SECONDS = 2, 7.0
_LONG_ROUNDS, _LONG_SECONDS = 30, 60.0


def play(root: Path, log: Path, roles: Sequence[str], seconds: float, seed: int) -> list[dict[str, Any]]:
    """One round of all roles at once; what they saw."""
    code = "import sys; from reconciler.testing import history; history.main(*sys.argv[1:])"
    logs = [log.with_name(f"{log.name}-{seed}-{at}") for at in range(len(roles))]
    players = [
        subprocess.Popen(
            [sys.executable, "-c", code, role, root, str(seconds), str(seed * 100 + at), log],
            stderr=subprocess.PIPE,
            text=True,
        )
        for at, (role, log) in enumerate(zip(roles, logs, strict=True))
    ]
    ended = [(player.communicate(timeout=seconds + 120)[1], player.returncode) for player in players]
    assert ended == [("", 0)] * len(roles), "\n".join(text for text, _ in ended)
    return [json.loads(line) for path in logs for line in path.read_text().splitlines()]


def final_look(root: Path) -> list[dict[str, Any]]:
    """What every name is for once all is quiet, as operations that saw it. Whatever is named is whole."""
    state = open_writer(root)
    try:
        named = {name.name: name.digest for name in state.names.list()}
        for sample in samples():
            if sample.record.digest in named.values() or any(
                row.image == sample.record.digest for row in state.containers.all()
            ):
                check_image(state, sample)
    finally:
        state.close_pass()
        state.close()
    seen = {"kind": "get", "result": "ok", "start": 1e12, "end": 1e12 + 1}
    return [{**seen, "name": name, "image": named.get(name)} for name in NAMES]


def check_clean(root: Path) -> None:
    """One collection leaves exactly what is reachable, and every claim of the store holds."""
    with EmbeddedEngine(root) as engine:
        list(collect(engine, Collection(engine.view()).plan(), 10))
        state = engine.view().state
        needed = {name.digest for name in state.names.list()} | {row.image for row in state.containers.all()}
        reachable = [sample for sample in samples() if sample.record.digest in needed]
        assert set(state.images.digests()) == needed
        assert set(state.content.digests()) == {blob for sample in reachable for blob in sample.record.blobs}
        assert {path.name for path in (root / "layers").iterdir() if not path.suffix} == {
            chain.hex for sample in reachable for chain in sample.record.chain_ids
        }
        assert Collection(engine.view()).plan() == []
        assert state.leases.list() == ()
    # The containers of a history have a writable layer and a row, but no program to start.
    damage = [item for item in verify_root(root, layers=True).damage if item.code != "no-spec"]
    assert damage == []


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "root"
    prepare_root(root)
    state = open_writer(root)
    state.close()
    yield root
    shutil.rmtree(state.run, ignore_errors=True)


def test_s14_s16_s17_a_history_of_many_processes_loses_nothing(
    root: Path, tmp_path: Path, long_run: bool, say: Callable[[str], None]
) -> None:
    seed = int(os.environ.get("HISTORY_SEED") or random.randrange(10**6))
    rounds, seconds = (_LONG_ROUNDS, _LONG_SECONDS) if long_run else (_ROUNDS, _SECONDS)
    history: list[dict[str, Any]] = []
    for turn in range(rounds):
        history += play(root, tmp_path / "log", _CASTS[turn % len(_CASTS)], seconds, seed + turn)
        assert violations([*history, *final_look(root)]) == [], f"HISTORY_SEED={seed}"
        check_clean(root)
    say(f"concurrent history: {summary(history)} in {rounds} rounds of 6 processes, seed {seed}")
    assert {"set", "get", "read", "create", "use", "drop", "remove", "gc"} <= {item["kind"] for item in history}
