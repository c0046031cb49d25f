"""Files of variables: ``.env`` beside a spec, ``--env-file``, and a container's ``env_file``.

One ``NAME=value`` a line; ``export`` before it, blank lines and ``#`` comments are skipped. Single quotes keep text
as it is; double quotes know ``\\n``, ``\\r``, ``\\t``, ``\\\\``, ``\\"`` and ``\\$``; both may span lines. Outside
quotes, `` #`` begins a comment and spaces at the ends are dropped. Values are taken as written: nothing in them is
expanded.
"""

from __future__ import annotations

import re

from reconciler.model.desired import Location
from reconciler.spec.errors import Problems, shown

MAX_BYTES = 1024 * 1024

_LINE = re.compile(r"[ \t]*(?:export[ \t]+)?([^=\s#]+)[ \t]*=[ \t]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "$": "$"}
_SINGLE = re.compile(r"'([^']*)'[ \t]*(?:#[^\n]*)?(?=\n|$)")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"[ \t]*(?:#[^\n]*)?(?=\n|$)', re.DOTALL)


def parse_dotenv(name: str, data: bytes, problems: Problems) -> dict[str, str]:
    """The variables of one file; a name given twice keeps the last value. No problem echoes one."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        problems.add(Location(name, 1, 1), "the file is not UTF-8 text", "save it as UTF-8")
        return {}
    found: dict[str, str] = {}
    position, line = 0, 1
    while position < len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        stripped = text[position:end].strip()
        if stripped and not stripped.startswith("#"):
            end = _entry(text, position, end, Location(name, line, 1), found, problems)
        line += text.count("\n", position, end + 1)
        position = end + 1
    return found


def _entry(text: str, start: int, end: int, at: Location, found: dict[str, str], problems: Problems) -> int:
    """Reads the entry that begins at ``start`` and gives the index of the newline after it."""
    head = _LINE.match(text, start, end)
    if head is None:
        problems.add(at, "expected NAME=VALUE", "write NAME=VALUE, or # before a comment")
        return end
    if _NAME.fullmatch(head[1]) is None:
        problems.add(
            at, f"malformed variable name {shown(head[1], 40)}", "a name is A-Z a-z 0-9 _ . - and no digit first"
        )
        return end
    first = text[head.end() : head.end() + 1]
    if first not in ("'", '"'):
        value = re.split(r"(?:^|\s)#", text[head.end() : end], maxsplit=1)[0].strip()
        found[head[1]] = value
        return end
    quoted = (_SINGLE if first == "'" else _DOUBLE).match(text, head.end())
    if quoted is None:
        problems.add(at, f"the quotes around {head[1]} do not close, or text follows them", "check the quotes")
        return end
    found[head[1]] = quoted[1] if first == "'" else re.sub(r"\\(.)", _unescape, quoted[1], flags=re.DOTALL)
    return quoted.end()


def _unescape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[0])
