"""Dockerfile instructions as changes of an image's config: what ``docker commit --change`` takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from reconciler.errors import InvalidError, UsageError
from reconciler.linux.processes import signal_number
from reconciler.model.resources import ConfigChanges

_SHELL = ("/bin/sh", "-c")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.ASCII)
_NOT_IN_OCI = "the OCI image format has no place for it"


def config_changes(instructions: Iterable[str]) -> ConfigChanges:
    """What a row of instructions comes to; of the same thing the last word counts.

    As with Docker, an ENTRYPOINT takes away the CMD that was written for another one, unless CMD is given too. Raises
    ``UsageError`` that quotes the instruction.
    """
    changes = ConfigChanges()
    for text in instructions:
        name, _, rest = text.strip().partition(" ")
        rest = rest.strip()
        apply = _INSTRUCTIONS.get(name.upper())
        if name.upper() in ("HEALTHCHECK", "ONBUILD"):
            raise _wrong(text, _NOT_IN_OCI, "leave it out")
        if apply is None:
            raise _wrong(text, "no such instruction", f"these can be given: {', '.join(sorted(_INSTRUCTIONS))}")
        if not rest:
            raise _wrong(text, "it has no value", f"such as {_EXAMPLES[name.upper()]}")
        try:
            changes = apply(changes, rest)
        except (ValueError, InvalidError) as error:
            raise _wrong(text, str(error), f"such as {_EXAMPLES[name.upper()]}") from None
    if changes.entrypoint is not None and changes.cmd is None:
        changes = replace(changes, cmd=())
    return changes


def _wrong(text: str, problem: str, hint: str) -> UsageError:
    return UsageError(f"--change {text[:200]!a}: {problem}", hint=hint)


def _cmd(changes: ConfigChanges, rest: str) -> ConfigChanges:
    return replace(changes, cmd=_command(rest))


def _entrypoint(changes: ConfigChanges, rest: str) -> ConfigChanges:
    return replace(changes, entrypoint=_command(rest))


def _env(changes: ConfigChanges, rest: str) -> ConfigChanges:
    return replace(changes, environment=(*changes.environment, *_pairs(rest)))


def _label(changes: ConfigChanges, rest: str) -> ConfigChanges:
    return replace(changes, labels=(*changes.labels, *_pairs(rest)))


def _user(changes: ConfigChanges, rest: str) -> ConfigChanges:
    return replace(changes, user=_one(rest))


def _workdir(changes: ConfigChanges, rest: str) -> ConfigChanges:
    word = "".join(_words(rest, keep_spaces=True))
    if word.startswith("/") or not changes.working_dir:
        return replace(changes, working_dir=word)
    return replace(changes, working_dir=f"{changes.working_dir.rstrip('/')}/{word}")


def _stop_signal(changes: ConfigChanges, rest: str) -> ConfigChanges:
    word = _one(rest)
    signal_number(word)
    return replace(changes, stop_signal=word)


def _expose(changes: ConfigChanges, rest: str) -> ConfigChanges:
    ports = []
    for word in _words(rest):
        match = _PORTS.fullmatch(word.lower())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 1 <= first <= last <= 65535:
            raise ValueError(f"{word[:50]!a} is no port")
        ports += [f"{port}/{match[3] or 'tcp'}" for port in range(first, last + 1)]
    return replace(changes, exposed_ports=(*changes.exposed_ports, *ports))


def _volume(changes: ConfigChanges, rest: str) -> ConfigChanges:
    paths = _json_list(rest) or tuple(_words(rest))
    for path in paths:
        if not path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"{path[:50]!a} is no absolute path")
    return replace(changes, volumes=(*changes.volumes, *paths))


def _command(rest: str) -> tuple[str, ...]:
    """The words of a JSON list; anything else is a line for the shell."""
    words = _json_list(rest)
    return words if words is not None else (*_SHELL, rest)


def _json_list(text: str) -> tuple[str, ...] | None:
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None  # `[ -f /x ] && y` is a line for the shell
    return tuple(found) if isinstance(found, list) and all(isinstance(word, str) for word in found) else None


def _pairs(text: str) -> list[tuple[str, str]]:
    """``K=V K2="V 2"``, or the old form ``K V`` of one pair."""
    words = _words(text)
    if "=" not in words[0]:
        first, _, rest = text.partition(" ")
        if not rest.strip():
            raise ValueError(f"{first[:50]!a} has no value")
        return [(first, "".join(_words(rest.strip(), keep_spaces=True)))]
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise ValueError(f"{word[:50]!a} is not K=V")
        pairs.append((key, value))
    return pairs


def _one(text: str) -> str:
    words = _words(text)
    if len(words) != 1:
        raise ValueError("it takes one word")
    return words[0]


def _words(text: str, *, keep_spaces: bool = False) -> list[str]:
    """The words of a line, with the quotes and backslashes of a Dockerfile; one word with its spaces if asked to.

    Raises ``ValueError`` for an open quote, and for a variable: an image's environment is not looked up here.
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    characters = iter(text)
    for character in characters:
        if character == "\\" and quote != "'":
            word = (word or "") + next(characters, "")
        elif quote and character == quote:
            quote = ""
        elif not quote and character in "\"'":
            quote, word = character, word or ""
        elif character == "$" and quote != "'":
            raise ValueError("variables are not replaced here: write the value, or \\$ for a dollar sign")
        elif character.isspace() and not quote and not keep_spaces:
            words += [word] if word is not None else []
            word = None
        else:
            word = (word or "") + character
    if quote:
        raise ValueError("a quote is not closed")
    return [*words, word] if word is not None else words


_INSTRUCTIONS: dict[str, Callable[[ConfigChanges, str], ConfigChanges]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
_EXAMPLES = {
    "CMD": """CMD ["httpd", "-f"]""",
    "ENTRYPOINT": """ENTRYPOINT ["/bin/app"]""",
    "ENV": "ENV LEVEL=info",
    "EXPOSE": "EXPOSE 80/tcp",
    "LABEL": "LABEL role=web",
    "STOPSIGNAL": "STOPSIGNAL SIGQUIT",
    "USER": "USER www-data",
    "VOLUME": "VOLUME /data",
    "WORKDIR": "WORKDIR /srv",
}
