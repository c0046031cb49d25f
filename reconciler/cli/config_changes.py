"""Changes of an image's config, written as the instructions of a Dockerfile: ``--change 'CMD ["sh"]'``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable

from reconciler.errors import UsageError
from reconciler.model.resources import ConfigChanges

_PORT = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?", re.ASCII)
_WORDS = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "WORKDIR")


def read_changes(instructions: Iterable[str]) -> ConfigChanges:
    """The changes that ``instructions`` ask for, each like ``ENV A=b``; a later one wins. Raises ``UsageError``."""
    found: dict[str, str | tuple[str, ...]] = {}
    environment: dict[str, str] = {}
    labels: dict[str, str] = {}
    ports: set[str] = set()
    for text in instructions:
        word, _, rest = text.strip().partition(" ")
        rest = rest.strip()
        match word.upper():
            case "CMD" | "ENTRYPOINT" as name:
                found[name] = _command(text, rest)
            case "ENV":
                environment |= _pairs(text, rest)
            case "LABEL":
                labels |= _pairs(text, rest)
            case "EXPOSE":
                ports.update(_port(text, item) for item in rest.split())
            case "USER" | "WORKDIR" | "STOPSIGNAL" as name if rest:
                found[name] = rest
            case _:
                raise _wrong(text, f"a change is one of {', '.join(_WORDS)} and its value")
    return ConfigChanges(
        cmd=_tuple(found.get("CMD")),
        entrypoint=_tuple(found.get("ENTRYPOINT")),
        environment=tuple(environment.items()),
        user=_text(found.get("USER")),
        working_dir=_text(found.get("WORKDIR")),
        stop_signal=_text(found.get("STOPSIGNAL")),
        labels=tuple(labels.items()),
        exposed_ports=tuple(sorted(ports)),
    )


def _command(text: str, rest: str) -> tuple[str, ...]:
    """The JSON form as it is; anything else is a line for the shell, as in a Dockerfile."""
    if not rest.startswith("["):
        return ("/bin/sh", "-c", rest) if rest else ()
    try:
        words = json.loads(rest)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _wrong(text, "write a JSON list of texts, or a line for the shell")
    return tuple(words)


def _pairs(text: str, rest: str) -> dict[str, str]:
    try:
        words = shlex.split(rest)
    except ValueError:
        words = []
    name, space, value = rest.partition(" ")
    if space and "=" not in name:
        return {name: value.strip()}  # the old form: ENV NAME the rest of the line
    if not words or not all(word.partition("=")[0] and "=" in word for word in words):
        raise _wrong(text, "write NAME=VALUE")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _port(text: str, item: str) -> str:
    match = _PORT.fullmatch(item)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise _wrong(text, "a port is 1 to 65535, perhaps with /tcp, /udp or /sctp")
    return f"{int(match[1])}/{match[2] or 'tcp'}"


def _tuple(value: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    return value if isinstance(value, tuple) else None


def _text(value: str | tuple[str, ...] | None) -> str | None:
    return value if isinstance(value, str) else None


def _wrong(text: str, hint: str) -> UsageError:
    return UsageError(f"--change {text[:200]!a} is not understood", hint=hint)
