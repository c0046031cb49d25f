"""Structured logs on stderr.

structlog costs a tenth of a second to import, and most commands log nothing: a logger here imports it at the first
event that is to be shown. The command line calls ``configure`` once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]
_ORDER: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Settings:
    threshold = _ORDER["warning"]
    format: Format = "text"
    color = False
    emit: Callable[..., None] | None = None


def configure(*, level: Level = "warning", format: Format = "text", color: bool = False) -> None:  # noqa: A002
    """Sets what is logged and how, for the whole process. May be called again."""
    _Settings.threshold = _ORDER[level]
    _Settings.format = format
    _Settings.color = color
    _Settings.emit = None


def forward(emit: Callable[..., None], *, threshold: int) -> None:
    """Gives all events from ``threshold`` on to ``emit(level, event, **fields)``: for a process that shows none."""
    _Settings.threshold = threshold
    _Settings.emit = emit


def threshold() -> int:
    """What ``forward`` takes in another process, so that it forwards just what is shown here."""
    return _Settings.threshold


class Logger:
    """Events of one room: an event name in kebab-case and fields. Fields must never hold a secret."""

    def __init__(self, room: str) -> None:
        self._room = room

    def debug(self, event: str, **fields: Any) -> None:
        self._log("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._log("error", event, fields)

    def _log(self, level: Level, event: str, fields: dict[str, Any]) -> None:
        if _ORDER[level] < _Settings.threshold:
            return
        emit = _Settings.emit
        if emit is None:
            emit = _Settings.emit = _make_emitter()
        emit(level, event, room=self._room, **fields)


def _make_emitter() -> Callable[..., None]:
    import structlog

    renderer: Any = (
        structlog.processors.JSONRenderer()
        if _Settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=_Settings.color)
    )
    logger = structlog.wrap_logger(
        # The stream is looked up at each event: tests and daemons replace sys.stderr.
        structlog.PrintLogger(_Stderr()),  # type: ignore[arg-type]
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )

    def emit(level: str, event: str, **fields: Any) -> None:
        getattr(logger, level)(event, **fields)

    return emit


class _Stderr:
    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
