"""The models of syncs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from reconciler.errors import InvalidError
from reconciler.oci.reference import Reference
from reconciler.spec.fields import (
    Also,
    Bool,
    Duration,
    PlatformName,
    Share,
    TagPattern,
    VersionRange,
    boolean,
    checked,
    fail,
    integer,
    parsed,
)
from reconciler.spec.mapping import Model


def repository(value: str) -> str:
    """``registry/repository`` in full, from what names a repository alone. Raises ``InvalidError``."""
    reference = Reference.parse(value)
    if reference.digest is not None or value.endswith(f":{reference.tag}"):
        raise InvalidError("a repository is named without a tag or a digest", hint="the tags to copy go under `tags`")
    return reference.name


def _tag(value: str) -> str:
    try:
        found = Reference.parse(f"localhost/x:{value}")
    except InvalidError:
        found = None
    if found is None or found.tag != value:
        raise InvalidError("malformed tag", hint="a tag is 1 to 128 of A-Z a-z 0-9 _ . - and begins with no . -")
    return value


def _tags_before(value: Any) -> Any:
    if isinstance(value, list) and not value:
        raise fail("the list of tags is empty", "name tags, or leave `tags` out to copy all")
    return {"names": value} if isinstance(value, list) else value


def _prune_before(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    return {} if boolean(value) else None


RepositoryName = Annotated[str, checked(repository), WithJsonSchema({"type": "string"})]
RepositoryField = Annotated[str, parsed(repository), WithJsonSchema({"type": "string"})]
TagField = Annotated[str, parsed(_tag), WithJsonSchema({"type": ["string", "number"]})]
_TAG_LIST = {"type": "array", "minItems": 1, "items": {"type": ["string", "number"]}}


class SyncTags(Model):
    """Which tags to copy: all that every rule given here lets through. A list is short for `{names: [...]}`."""

    names: tuple[TagField, ...] = Field(default=(), description="These tags; one that is missing is an error.")
    allow: tuple[TagPattern, ...] = Field(
        default=(), description="Tags that one of these matches as a whole, besides `names`."
    )
    deny: tuple[TagPattern, ...] = Field(default=(), description="But none that one of these matches as a whole.")
    semver: VersionRange | None = Field(default=None, description="Versions in this range, such as `>=1.4 <2`.")
    newest: Annotated[int, *integer(1, 1_000_000)] | None = Field(
        default=None, description="So many of them: the highest versions, or the last by name."
    )
    min_age: Duration | None = Field(
        default=None, description="Only tags that this host has known for so long with the digest they have now."
    )


class SyncPrune(Model):
    """What a sync may take away at its target."""

    protect: tuple[TagPattern, ...] = Field(
        default=(), description="Tags that stay in any case: those that one of these matches as a whole."
    )
    max_delete_share: Share = Field(
        default=0.3,
        description="More than 5 deletions that are also more than this share of the target's tags need "
        "`--max-deletes`, or are not made.",
    )


class Sync(Model):
    """Tags of one repository that another one is to have."""

    from_: RepositoryField = Field(alias="from", description="The repository to copy from, without a tag.")
    tags: Annotated[SyncTags | None, BeforeValidator(_tags_before), Also(_TAG_LIST)] = Field(
        default=None, description="Which tags; left out, all."
    )
    platforms: tuple[PlatformName, ...] = Field(
        default=(),
        description="Of images for several platforms, only these, such as `linux/amd64`; left out, all. The index is "
        "made anew with the entries that stay, so its digest differs, and signatures of the whole stay behind.",
    )
    referrers: Bool = Field(
        default=True,
        description="Copy what refers to an image or its parts too, also when it is made later: signatures, "
        "attestations, SBOMs, by the list of the registry and by tags `sha256-...`.",
    )
    prune: Annotated[SyncPrune | None, BeforeValidator(_prune_before), Also({"type": "boolean"})] = Field(
        default=None,
        description="`true` deletes tags of the target that are not chosen, but for those that only lack age. Left "
        "out or `false`, all stay.",
    )
    interval: Duration = Field(default=3600.0, description="How often a daemon looks, at most.")
