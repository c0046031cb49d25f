"""Problems found in spec files, collected so that one run shows them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.errors import InvalidError
from reconciler.model.desired import Location
from reconciler.spec.nearest import nearest
from reconciler.value import dataclass

MAX_GUESSES = 200


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where. ``location`` is None only when no file could be read."""

    location: Location | None
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        return f"{where}{self.message}" + (f"\n  {self.hint}" if self.hint else "")


class SpecError(InvalidError):
    """The specs cannot be used. ``problems`` holds everything found, sorted by place; ``str()`` prints them all."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = tuple(sorted(set(problems), key=_order))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Problems:
    """A collector: each stage adds what it finds and goes on as far as that makes sense."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self.names_known = True
        """Whether every name that the specs declare was read; else one that is not found proves nothing."""

    def add(self, location: Location | None, message: str, hint: str = "") -> None:
        self._found.append(Problem(location, message, hint))

    def guess(self, name: str, known: Iterable[str]) -> str | None:
        """The nearest name, for a hint; None after many problems, as each search takes time that no reader gains."""
        return nearest(name, known) if len(self._found) < MAX_GUESSES else None

    def extend(self, other: Problems) -> None:
        """Adds what another collector has."""
        self._found += other._found
        self.names_known = self.names_known and other.names_known

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_if_any(self) -> None:
        """Raises ``SpecError`` with everything added so far, if anything was."""
        if self._found:
            raise SpecError(tuple(self._found))


def field_name(path: Sequence[str | int]) -> str:
    """A field as people write it: ``ports[0].target``; escaped where a key is not plain text."""
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
    return name if name.isascii() and name.isprintable() else shown(name)


def shown(text: str, limit: int = 80) -> str:
    """Text from a file, quoted and escaped so that a look-alike or a control character shows as what it is."""
    return ascii(text if len(text) <= limit else text[:limit] + "...")


def _order(problem: Problem) -> tuple[bool, Location, str]:
    return problem.location is not None, problem.location or Location("", 0, 0), problem.message
