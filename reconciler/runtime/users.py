"""Who a container's process runs as: the forms of USER, looked up in the image's own passwd and group files."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.errors import RuntimeFailure
from reconciler.linux.rooted import Rooted
from reconciler.value import dataclass

_LIMIT = 8 * 1024 * 1024  # bytes of a passwd or group file
_MAX_ID = 2**31 - 1  # Docker's bound; ids beyond it break in 32-bit programs


@dataclass(frozen=True, slots=True)
class User:
    """Numeric ids, supplementary groups without ``gid`` itself, and the home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


def resolve_user(root: Rooted, text: str) -> User:
    """The user that ``text`` means in ``root``: ``""`` (root), ``USER`` or ``USER:GROUP``, each a name or a number.

    A number need not be listed; its group is then 0. With a group given there are no supplementary groups. Raises
    ``RuntimeFailure`` when a name is unknown, a number is out of range, or a file is not a plain one of sane size.
    """
    user_text, colon, group_text = text.partition(":")
    user_text = user_text or "0"
    entry = next((fields for fields in _entries(root, "/etc/passwd", 7) if user_text in (fields[0], fields[2])), None)
    if entry is not None:
        name, uid, gid, home = entry[0], _number(entry[2], text), _number(entry[3], text), entry[5] or "/"
    elif user_text.isascii() and user_text.isdigit():
        name, uid, gid, home = "", _number(user_text, text), 0, "/"
    else:
        raise RuntimeFailure(
            f"user {user_text!r} is not in the image's /etc/passwd",
            hint="Use a number, or an image that has this user.",
        )
    if colon and group_text:
        return User(uid, _group(root, group_text, text), (), home)
    groups = {
        _number(fields[2], text) for fields in _entries(root, "/etc/group", 4) if name and name in fields[3].split(",")
    }
    return User(uid, gid, tuple(sorted(groups - {gid})), home)


def _group(root: Rooted, group: str, text: str) -> int:
    for fields in _entries(root, "/etc/group", 4):
        if group in (fields[0], fields[2]):
            return _number(fields[2], text)
    if group.isascii() and group.isdigit():
        return _number(group, text)
    raise RuntimeFailure(
        f"group {group!r} is not in the image's /etc/group", hint="Use a number, or an image that has this group."
    )


def _number(field: str, text: str) -> int:
    if not (field.isascii() and field.isdigit() and len(field) <= 10 and int(field) <= _MAX_ID):
        raise RuntimeFailure(f"user {text!r} leads to {field!r}, which is not an id between 0 and {_MAX_ID}")
    return int(field)


def _entries(root: Rooted, path: str, width: int) -> Iterator[list[str]]:
    """The lines of a passwd or group file that have ``width`` fields; none when there is no such file."""
    try:
        data = root.read(path, _LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise RuntimeFailure(f"the image's {path} cannot be used: {error.strerror}") from None
    for line in data.decode(errors="surrogateescape").split("\n"):
        fields = line.strip().split(":")
        if len(fields) >= width and fields[0] and not line.startswith("#"):
            yield fields
