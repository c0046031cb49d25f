"""Every error that this package raises on purpose.

A message says what happened and where; ``hint`` says what to do next. Each class carries the exit code that the
command line gives for it (the table is in the README), so that a new error cannot forget to choose one.
"""

from __future__ import annotations


class ReconcilerError(Exception):
    """The root of all our errors. ``str()`` is the message alone; ``hint`` is one imperative sentence or empty.

    ``attempt`` is what could not be done ("resolve busybox:1"), where the message should begin with it; ``reason`` is
    the message without it, for those who have said it already.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", attempt: str = "") -> None:
        super().__init__(f"cannot {attempt}: {message}" if attempt else message)
        self.hint = hint
        self.reason = message


class UsageError(ReconcilerError):
    """The command line was wrong: unknown flag, missing argument, a question that needs a terminal."""

    exit_code = 64


class LockedError(ReconcilerError):
    """Another writer holds the root and the lock timeout passed."""

    exit_code = 5


class StalePlanError(ReconcilerError):
    """A saved plan no longer fits what is there."""

    exit_code = 6


class RefusedError(ReconcilerError):
    """A policy or a guard forbids it: the prune guard, an empty set, a host policy."""

    exit_code = 7


class InvalidError(ReconcilerError):
    """A value from outside does not follow its grammar: a reference, a digest, a manifest, a config."""


class LimitError(InvalidError):
    """A value from outside is larger than this host's owner allows; the message names the limit, the hint raises it."""


class NotFoundError(ReconcilerError):
    """A named thing is not there."""


class ConflictError(ReconcilerError):
    """The thing is there but in the way: a name taken, an image in use, a port bound."""


class IntegrityError(ReconcilerError):
    """Bytes are not what their digest or size promised. Nothing of them became visible."""


class HostError(ReconcilerError):
    """The host lacks something we need, or a system call failed: a program, a kernel feature, space."""


class RegistryError(ReconcilerError):
    """A registry or a mirror could not give the answer asked for."""


class AuthError(RegistryError):
    """A registry refused our credentials, or needs some and has none."""


class RateLimitError(RegistryError):
    """A registry wants fewer requests, after the waits that it asked for; or its quota is used up but for the rest."""


class RuntimeFailure(ReconcilerError):
    """The OCI runtime could not do what was asked of a container.

    ``code`` is what ``container run`` exits with: 125 our failure, 126 not executable, 127 not found.
    """

    def __init__(self, message: str, *, hint: str = "", code: int = 125) -> None:
        super().__init__(message, hint=hint)
        self.code = code
