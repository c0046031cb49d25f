"""What is printed: the machine, and for each case every engine's median and range, and our ratio to each peer."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.bench.cases import Case
from tests.bench.engine import Engine, Sample

OURS = "reconciler"
Rows = Sequence[tuple[Case, dict[str, list[Sample]]]]
_TITLE = 40
_CELL = 22


def machine(engines: Iterable[Engine]) -> list[str]:
    """What the numbers hold for."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(int(line.split()[1]) / 1e6 for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return [
        f"machine: {os.cpu_count()} x {models[0] if models else platform.machine()}, {memory:.0f} GB, "
        f"Linux {platform.release()}; load {os.getloadavg()[0]:.1f} at the start",
        *(engine.version() for engine in engines),
    ]


def headings(names: Iterable[str]) -> str:
    """The table's first two lines."""
    names = list(names)
    cells = "".join(f"{name:>{_CELL}}" for name in names)
    ratios = "".join(f"{'/ ' + name:>10}" for name in names if name != OURS)
    return f"{'median (range), ms or MiB':{_TITLE}}{cells}{ratios}"


def line(case: Case, samples: dict[str, list[Sample]], names: Iterable[str]) -> str:
    """The table's line for one case. A dash where an engine has no such thing."""
    names = list(names)
    cells = "".join(f"{_cell(case, samples.get(name)):>{_CELL}}" for name in names)
    ratios = "".join(f"{_ratio_cell(case, samples, name):>10}" for name in names if name != OURS)
    return f"{case.title:{_TITLE}}{cells}{ratios}"


def document(head: Sequence[str], rows: Rows) -> dict[str, Any]:
    """Everything measured, for programs: milliseconds, or MiB where the case measures memory."""
    return {
        "about": list(head),
        "cases": [
            {
                "name": case.name,
                "title": case.title,
                "unit": "MiB" if case.measure == "memory" else "ms",
                "samples": {name: [round(value, 2) for value in _values(case, found)] for name, found in taken.items()},
                "ratios": {name: _ratio(case, taken, name) for name in taken if name != OURS},
            }
            for case, taken in rows
        ],
    }


def _cell(case: Case, samples: Sequence[Sample] | None) -> str:
    if not samples:
        return "-"
    values = _values(case, samples)
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def _ratio_cell(case: Case, samples: dict[str, list[Sample]], peer: str) -> str:
    ratio = _ratio(case, samples, peer)
    return "-" if ratio is None else f"{ratio:.2f}"


def _ratio(case: Case, samples: dict[str, list[Sample]], peer: str) -> float | None:
    """Our median by the peer's: below 1 we are better."""
    if not samples.get(OURS) or not samples.get(peer):
        return None
    ours, theirs = (statistics.median(_values(case, samples[name])) for name in (OURS, peer))
    return round(ours / theirs, 3)


def _values(case: Case, samples: Iterable[Sample]) -> list[float]:
    return [sample.memory if case.measure == "memory" else sample.seconds * 1000 for sample in samples]


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
