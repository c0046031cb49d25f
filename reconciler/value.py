"""``dataclass`` as the standard library has it, but cheap to define: a short command defines a hundred classes.

The library compiles six functions for each frozen class, 0.5 ms: that was half the time of many commands. Here it
compiles ``__init__`` alone, and ``frozen`` is for mypy, which finds every assignment. All else is the same: ``fields``,
``replace``, ``asdict``, ``match``, and what ``field`` says.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

_T = TypeVar("_T")


def _dataclass(
    *, frozen: bool = False, slots: bool = False, eq: bool = True, order: bool = False
) -> Callable[[type[_T]], type[_T]]:
    """See ``dataclasses.dataclass``. ``frozen`` gives a hash, as it does there, and no more."""

    def define(cls: type[_T]) -> type[_T]:
        made = dataclasses.dataclass(repr=False, eq=False, slots=slots)(cls)
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cast("Any", made))
        _add(made, "__repr__", _representation([field.name for field in fields if field.repr]))
        if eq:
            key = _key([field.name for field in fields if field.compare])
            for name in ("eq", "lt", "le", "gt", "ge") if order else ("eq",):
                _add(made, f"__{name}__", _comparison(getattr(operator, name), key))
            _add(made, "__hash__", (lambda self: hash(key(self))) if frozen else None)
        return made

    return define


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    dataclass = _dataclass


def _add(cls: type, name: str, method: Any) -> None:
    """A method that the class defines itself stays."""
    if name not in cls.__dict__:
        setattr(cls, name, method)


def _representation(names: list[str]) -> Callable[[Any], str]:
    def represent(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return represent


def _key(names: list[str]) -> Callable[[Any], Any]:
    return operator.attrgetter(*names) if names else lambda _: ()


def _comparison(compare: Callable[[Any, Any], bool], key: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: object) -> Any:
        return compare(key(self), key(other)) if other.__class__ is self.__class__ else NotImplemented

    return method
