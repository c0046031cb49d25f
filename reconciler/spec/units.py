"""Sizes, durations and file modes: one table each, for every field of the language."""

from __future__ import annotations

import re

from reconciler.errors import InvalidError

# Binary units whatever the case, as Docker has it: 1k = 1kb = 1kib = 1024 bytes.
SIZES = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
DURATIONS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

MAX_SIZE = 2**53
MAX_DURATION = 10 * 365 * 86400.0
MAX_ID = 2**32 - 2  # the last one means "unchanged" to chown(2)

_SIZE = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,6})?)(b|[kmgt](?:i?b)?)?", re.ASCII | re.IGNORECASE)
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:us|ms|[smhd]))+", re.ASCII)
_PART = re.compile(r"([0-9.]+)(us|ms|[smhd])", re.ASCII)
_ID = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)(%)?", re.ASCII)
_MODE = re.compile(r"0o?([0-7]{3,4})", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes from ``512m`` or ``0.5g``; a number alone is bytes. Raises ``InvalidError``."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidError("malformed size", hint="write a number and b, k, m, g or t, such as 512m")
    exact = float(match[1]) * SIZES[(match[2] or "b")[0].lower()]
    if exact > MAX_SIZE:
        raise InvalidError("the size is too large", hint=f"at most {MAX_SIZE} bytes")
    if exact != int(exact):
        raise InvalidError("the size is not a whole number of bytes", hint="use a smaller unit")
    return int(exact)


def parse_duration(text: str) -> float:
    """Seconds from ``10s``, ``1h30m`` or ``1.5s``. Raises ``InvalidError``."""
    if _DURATION.fullmatch(text) is None:
        raise InvalidError("malformed duration", hint="write numbers with us, ms, s, m, h or d, such as 1h30m or 10s")
    seconds = sum(float(number) * DURATIONS[unit] for number, unit in _PART.findall(text))
    if seconds > MAX_DURATION:
        raise InvalidError("the duration is too long", hint="at most ten years (3650d)")
    return seconds


def parse_share(text: str) -> float:
    """A part of a whole from ``0.3`` or ``30%``. Raises ``InvalidError``."""
    match = _SHARE.fullmatch(text)
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= 1:
        raise InvalidError("malformed share", hint="write a number from 0 to 1 such as 0.3, or 30%")
    return share


def parse_mode(text: str) -> int:
    """Permission bits from ``0755`` or ``0o755``, always octal. Raises ``InvalidError``."""
    match = _MODE.fullmatch(text)
    if match is None:
        raise InvalidError("malformed file mode", hint="write it in octal with a leading 0, such as 0440")
    return int(match[1], 8)


def parse_id(text: str) -> int:
    """The number of a user or a group, which Compose writes in quotes. Raises ``InvalidError``."""
    if _ID.fullmatch(text) is None or int(text) > MAX_ID:
        raise InvalidError("malformed number of a user or a group", hint=f"write a number from 0 to {MAX_ID}")
    return int(text)
