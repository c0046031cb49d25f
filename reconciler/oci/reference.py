"""Image references: Docker's grammar and defaults (distribution/reference), stricter where noted.

``nginx`` means ``docker.io/library/nginx:latest``. The first part is a registry only if it holds a ``.`` or a ``:``,
is ``localhost``, or has an upper-case letter. Two rules are stricter than upstream: a registry that the host grammar
rejects is an error instead of an empty registry, and a port must be 1 to 65535.
"""

from __future__ import annotations

import re

from reconciler.errors import InvalidError
from reconciler.oci.digest import Digest
from reconciler.value import dataclass

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
MAX_REPOSITORY = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::([0-9]+))?", re.ASCII)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.ASCII | re.IGNORECASE)
_ALGORITHM = re.compile(r"(?:sha|md|blake)[a-z0-9]*(?::|$)", re.ASCII)
_CLEAN_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}\Z", re.ASCII)
_NO_CREDENTIALS = "write name@sha256:...; credentials go under `registries:` in the spec"
_BARE_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A normalised reference. At least one of ``tag`` and ``digest`` is given; ``str()`` parses back to itself.

    Without either, as ``repository_only`` makes it, it names a repository.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Reads what a user wrote. Raises ``InvalidError`` with what is wrong; never echoes a password."""
        if scheme := _SCHEME.match(text):
            bare = text[scheme.end() :]
            raise _error(text, "a reference has no scheme", "leave it out" if "@" in bare else f"write {_shown(bare)}")
        name, digest = _split_digest(text)
        if "@" in name:
            raise _error(text, "a reference holds no credentials", _NO_CREDENTIALS)
        registry, remainder = _split_registry(name)
        repository, colon, tag = remainder.partition(":")
        if registry == DEFAULT_REGISTRY and "/" not in repository:
            if name == repository and _BARE_ID.fullmatch(name):
                raise _error(text, "64 hexadecimal digits look like an image ID", "write name@sha256:... instead")
            repository = f"library/{repository}" if repository else ""
        _check_registry(text, registry)
        _check_repository(text, repository)
        if colon and _TAG.fullmatch(tag) is None:
            raise _error(text, "the tag is malformed", "a tag is 1 to 128 of A-Z a-z 0-9 _ . - and begins with no . -")
        return cls(registry, repository, tag if colon else (None if digest else DEFAULT_TAG), digest)

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """As people write it: without ``docker.io/`` and ``library/``. Parses back to the same reference."""
        name = self.name
        if self.registry == DEFAULT_REGISTRY:
            short = self.repository.removeprefix("library/")
            # Dropping a part must not turn what remains into a registry, an image ID or another path.
            name = short if self._parses_back(short) else self.repository
            name = name if self._parses_back(name) else self.name
        return name + self._suffix

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository, pinned to ``digest`` and without a tag."""
        return Reference(self.registry, self.repository, None, digest)

    def with_tag(self, tag: str) -> Reference:
        """The same repository, with ``tag`` and no digest."""
        return Reference(self.registry, self.repository, tag, None)

    def repository_only(self) -> Reference:
        """The repository alone."""
        return Reference(self.registry, self.repository)

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def _parses_back(self, name: str) -> bool:
        try:
            again = Reference.parse(name)
        except InvalidError:
            return False
        return (again.registry, again.repository) == (self.registry, self.repository)

    def __str__(self) -> str:
        return self.name + self._suffix


def parse_registry(text: str) -> str:
    """A registry's ``host[:port]`` as it appears in references. Raises ``InvalidError``."""
    if "@" in text:
        raise _error(text, "a registry's name holds no credentials", "put them under its `auth:`")
    host = DEFAULT_REGISTRY if text == "index.docker.io" else text
    if not any(c in host for c in ".:") and host == host.lower() and host != "localhost":
        raise InvalidError(
            f"{_shown(text)} is never a registry in a reference",
            hint="a registry has a dot, a port, or is localhost",
        )
    _check_registry(text, host)
    return host


def _split_digest(text: str) -> tuple[str, Digest | None]:
    name, at, digest = text.rpartition("@")
    if not at:
        return text, None
    try:
        return name, Digest(digest)
    except InvalidError as error:
        # What stands before the @ may be a password, and so may what follows it: neither is shown.
        if _ALGORITHM.match(digest) is None and digest:
            raise _error(text, "what follows @ is no digest", _NO_CREDENTIALS) from None
        raise InvalidError("invalid reference: malformed or unsupported digest", hint=error.hint) from None


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (any(c in first for c in ".:") or first == "localhost" or first != first.lower()):
        return DEFAULT_REGISTRY, name
    return (DEFAULT_REGISTRY if first == "index.docker.io" else first), rest


def _check_registry(text: str, registry: str) -> None:
    match = _REGISTRY.fullmatch(registry)
    if match is None:
        raise _error(text, f"{_shown(registry)} is no host name", "a registry is host[:port]; IPv6 goes in brackets")
    port = match.group(1)
    if port is not None and not 1 <= int(port[:6]) <= 65535:
        raise _error(text, f"port {port[:10]} is out of range", "a port is 1 to 65535")


def _check_repository(text: str, repository: str) -> None:
    if repository != repository.lower():
        lower = repository.lower() if "library/" in text else repository.lower().removeprefix("library/")
        raise _error(text, "the repository must be lower case", f"write {_shown(lower)}")
    if _REPOSITORY.fullmatch(repository) is None:
        raise _error(
            text,
            "the repository is missing" if not repository else "the repository is malformed",
            "parts are a-z and 0-9, joined by . _ __ or -, separated by /",
        )
    if len(repository) > MAX_REPOSITORY:
        raise _error(text, f"the repository has more than {MAX_REPOSITORY} characters", "shorten it")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 120 else text[:120] + "...")


def _error(text: str, what: str, hint: str) -> InvalidError:
    """``text`` is shown only when nothing in it can be a password: no ``@`` but the one of a clean digest."""
    before, at, _ = text.rpartition("@")
    hidden = at and (_CLEAN_DIGEST.search(text) is None or "@" in before)
    return InvalidError(f"invalid reference{'' if hidden else ' ' + _shown(text)}: {what}", hint=hint)
