"""The models of mirrors."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, Field, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator

from reconciler.errors import InvalidError
from reconciler.oci.reference import parse_registry
from reconciler.spec.fields import Property, Word, boolean, checked, parsed
from reconciler.spec.mapping import Model
from reconciler.value import dataclass

FROM_HOST = "from_host"
"""The key under ``mirrors`` that is no registry: no host's name has an underscore."""


def mirror_host(value: str) -> str:
    """A registry's host, ``*``, or ``from_host``. Raises ``InvalidError``."""
    if re.sub("[-_]", "", value.lower()) == "fromhost" and value != FROM_HOST:
        raise InvalidError(f"{value!a} is no registry", hint=f"did you mean {FROM_HOST}?")
    return value if value in ("*", FROM_HOST) else parse_registry(value)


def _mirror_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise InvalidError("malformed mirror URL", hint="write http(s)://HOST[:PORT][/PREFIX]") from None
    if "@" in parts.netloc:
        raise InvalidError("a mirror URL holds no credentials", hint="put them under `registries:` for its own host")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise InvalidError("malformed mirror URL", hint="write http(s)://HOST[:PORT][/PREFIX]")
    if not re.fullmatch("[!-~]+", value) or {".", ".."} & set(unquote(parts.path).split("/")):
        raise InvalidError("a mirror URL has no blanks, nothing but ASCII, and no . or .. as a directory")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


MirrorHost = Annotated[str, checked(mirror_host), WithJsonSchema({"type": "string"})]
MirrorUrl = Annotated[str, parsed(_mirror_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})]


class Endpoint(Model):
    """One mirror."""

    short: ClassVar[str] = "url"

    url: MirrorUrl = Field(description="`http(s)://HOST[:PORT][/PREFIX]`, without credentials.")
    resolve: Annotated[Literal["first", "fallback", "never"], Word] = Field(
        default="fallback",
        description="Whether it may say what a tag points at: before the origin, when the origin does not answer, "
        "or never. Bytes come from mirrors first in any case.",
    )


@dataclass(frozen=True, slots=True)
class _Flag:
    """The value of ``from_host``, marked: it is no list of endpoints."""

    value: Any


def _flagged(value: Any) -> Any:
    if isinstance(value, dict) and FROM_HOST in value:
        return {**value, FROM_HOST: _Flag(value[FROM_HOST])}
    return value


def _endpoints(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    return boolean(value.value) if isinstance(value, _Flag) else handler(value)


Endpoints = Annotated[tuple[Endpoint, ...], WrapValidator(_endpoints)]
Mirrors = Annotated[dict[MirrorHost, Endpoints], BeforeValidator(_flagged), Property(FROM_HOST, {"type": "boolean"})]
