"""What went wrong at one server, in words fit to print; and what it means when every server failed.

A server's own words are cut and escaped: they come from outside and end on a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from reconciler.errors import (
    AuthError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RateLimitError,
    ReconcilerError,
    RegistryError,
)
from reconciler.printable import printable as escaped
from reconciler.registry.echo import without
from reconciler.registry.hosts import Endpoint

MAX_ERROR_BODY = 64 * 1024
_MAX_WORDS = 300
_BLANKS = str.maketrans("\r\n\t", "   ")

ENDPOINT_FAILURES = (RegistryError, NotFoundError, IntegrityError, InvalidError)
"""What one server may do wrong so that the next is asked. Anything else is ours: a full disk, a cancelled run."""


class TemporaryError(RegistryError):
    """Asking the same server again may help. ``retry_after`` is its wish in seconds, if it had one."""

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class LimitedError(TemporaryError, RateLimitError):
    """It wants to be asked later, because it was asked so often. ``server`` is its name."""

    def __init__(self, message: str, *, server: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint, retry_after=retry_after)
        self.server = server


class UnreachableError(TemporaryError):
    """No connection came about: the server is down, its name unknown, the way blocked."""


class SlowError(TemporaryError):
    """It delivers, but so slowly that another server is worth a try. What came is good to go on from."""


def combine(what: str, failures: Sequence[tuple[Endpoint, ReconcilerError]]) -> ReconcilerError:
    """One error for all the servers that were asked, saying what each of them said.

    It is a ``NotFoundError`` when the origin said that the thing does not exist: a mirror's 404 says only that the
    mirror does not have it. Otherwise its class is that of the failures where they agree, else ``RegistryError``.
    """
    errors = [error for _, error in failures]
    if len(errors) == 1:
        message = str(errors[0])
    else:
        message = "; ".join(f"[{index}] {error}" for index, error in enumerate(errors, 1))
    hint = next((error.hint for error in reversed(errors) if error.hint), "")
    return _class_of(failures)(message, hint=hint, attempt=what)


def _class_of(failures: Sequence[tuple[Endpoint, ReconcilerError]]) -> type[ReconcilerError]:
    if any(endpoint.upstream is None and isinstance(error, NotFoundError) for endpoint, error in failures):
        return NotFoundError
    for candidate in (AuthError, RateLimitError, IntegrityError, InvalidError):
        if all(isinstance(error, candidate) for _, error in failures):
            return candidate
    return RegistryError


def server_words(body: bytes, secrets: Iterable[str] = ()) -> str:
    """The code and message of a registry's error document (distribution-spec, "Error Codes"), or the body's start.

    ``secrets`` are taken out of them, before anything is cut.
    """
    words = _from_document(body) or body.decode("utf-8", "replace").strip()
    return printable(without(words, secrets))


def printable(text: str, limit: int = _MAX_WORDS) -> str:
    """``text`` with control and invisible characters escaped, on one line, at most ``limit`` characters."""
    shown = escaped(text[:limit].translate(_BLANKS))
    return shown + "..." if len(text) > limit else shown


def _from_document(body: bytes) -> str:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    errors = document.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        parts = (errors[0].get("code"), errors[0].get("message"))
    else:
        parts = (document.get("error") or document.get("details"), document.get("message"))
    return ": ".join(part for part in parts if isinstance(part, str) and part)
