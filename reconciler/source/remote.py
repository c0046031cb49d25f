"""Names of repositories and refs, checked before git sees them.

A word that reaches git's command line can be an option (``--upload-pack=...``) or a transport that runs a program
(``ext::sh -c ...``). So only what follows these grammars gets there.
"""

from __future__ import annotations

import os
import re
from dataclasses import field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from reconciler.errors import InvalidError
from reconciler.value import dataclass

_WHICH = "give an https:// or ssh:// URL, or user@host:path"
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+-]{0,63}", re.ASCII)
_SCP = re.compile(r"([^/@:]+)@([^/@:]+):(?!/?/)(.+)", re.ASCII)
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)
# git-check-ref-format(1), rules 3 to 10; the first two are about components and looked at one by one.
_BAD_REF = re.compile(r"\.\.|[\x00-\x20\x7f~^:?*\[\\]|@\{|//|[/.]$|^[-/]|^@$")
_MAX_REF = 255


@dataclass(frozen=True, slots=True)
class Credential:
    """What a URL held besides its address."""

    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository to fetch from. ``url`` holds no credential and is fit for a command line, a log and a record."""

    url: str
    transport: Literal["https", "ssh", "file"]
    credential: Credential | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        """Scheme and authority of an https URL: where its credential may be sent."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def parse_remote(text: str, *, local: bool = False) -> Remote:
    """Reads a URL, or an absolute or ``./`` path if ``local`` (it was named on the command line).

    ``https://user:token@host/path`` gives a remote with a credential apart from its URL. Raises ``InvalidError``,
    which never repeats what stood before an ``@``.
    """
    if not text or text.startswith("-") or _UNPRINTABLE.search(text) or "::" in text.partition("[")[0]:
        raise InvalidError(f"{_shown(text)} is not the URL of a repository", hint=_WHICH)
    if "://" in text:
        return _parse_url(text)
    found = _SCP.fullmatch(text)
    if found is not None:
        user, host, path = found.groups()
        if _USER.fullmatch(user) and _HOST.fullmatch(host) and not path.startswith("-"):
            return Remote(text, "ssh")
        raise InvalidError(f"{_shown(text)} is not the URL of a repository", hint=_WHICH)
    if not local:
        raise InvalidError(
            f"{_shown(text)} is not the URL of a repository", hint=f"{_WHICH}; a local path only on the command line"
        )
    return Remote(os.path.abspath(text), "file")  # noqa: PTH100 - keeps links


def _parse_url(text: str) -> Remote:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidError(f"{_shown(text)} is not a URL", hint=_WHICH) from error
    if parts.scheme not in ("https", "ssh"):
        raise InvalidError(f"{_shown(text)}: the transport {parts.scheme[:20]!a} is not allowed", hint=_WHICH)
    userinfo, _, _ = parts.netloc.rpartition("@")
    host = parts.netloc.rpartition("@")[2].removesuffix("" if port is None else f":{port}").removesuffix(":")
    if parts.query or parts.fragment or not _HOST.fullmatch(host) or len(parts.path) < 2:
        raise InvalidError(f"{_shown(text)} is not the URL of a repository", hint="write scheme://host/path")
    authority = host if port is None else f"{host}:{port}"
    if parts.scheme == "https":
        name, _, password = userinfo.partition(":")
        credential = Credential(unquote(name), unquote(password)) if userinfo else None
        if credential and ("\n" in credential.username + credential.password or "\0" in unquote(userinfo)):
            raise InvalidError(f"{_shown(text)}: a credential holds a line end or NUL", hint="give one line")
        return Remote(f"https://{authority}{parts.path}", "https", credential)
    if userinfo and not _USER.fullmatch(userinfo):
        raise InvalidError(f"{_shown(text)}: not a user name", hint="ssh takes ssh://user@host/path and no password")
    return Remote(f"ssh://{userinfo}@{authority}{parts.path}" if userinfo else text, "ssh")


def _shown(text: str) -> str:
    """The text without what may be a credential, printable on one line."""
    return ascii(text.rpartition("@")[2][:200])


def parse_ref(text: str) -> str:
    """Checks a branch, a tag, a full ref (``refs/...``), ``HEAD`` or a full commit id. Raises ``InvalidError``."""
    components = text.split("/")
    if (
        not text
        or len(text) > _MAX_REF
        or _BAD_REF.search(text)
        or any(part.startswith(".") or part.endswith(".lock") for part in components)
        or (components[0] == "refs" and len(components) < 3)
    ):
        raise InvalidError(f"{text[:100]!a} is not a ref", hint="give a branch, a tag, refs/... or a full commit id")
    return text


def is_commit(ref: str) -> bool:
    """Whether a ref is a full commit id: it always means the same commit."""
    return _COMMIT.fullmatch(ref) is not None


def parse_path(text: str) -> str:
    """A path inside a repository, without ``.`` components; empty means its root. Raises ``InvalidError`` (G05)."""
    if "\0" in text or text.startswith("/") or ".." in Path(text).parts:
        raise InvalidError(f"{text[:200]!a} leads out of the repository", hint="give a relative path without '..'")
    return "" if text in ("", ".") else str(Path(text))
