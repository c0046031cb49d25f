"""The model of an image's `track`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reconciler.spec.fields import Duration, TagPattern, VersionRange, integer
from reconciler.spec.mapping import Model


class Track(Model):
    """Which tag of a repository an image is: the newest that every rule given here lets through."""

    semver: VersionRange | None = Field(default=None, description="Versions in this range, such as `>=1.4 <2`.")
    pattern: TagPattern | None = Field(
        default=None, description="Tags that this regular expression matches as a whole."
    )
    newest: Annotated[int, *integer(1, 1)] | None = Field(
        default=None, description="Always 1: an image is one tag. On its own, the newest tag of all."
    )
    min_age: Duration | None = Field(
        default=None, description="Only tags that this host has known for so long with the digest they have now."
    )
