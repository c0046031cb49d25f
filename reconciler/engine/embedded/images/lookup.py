"""Which image a person means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import ConflictError, InvalidError, NotFoundError
from reconciler.oci.reference import Reference
from reconciler.store.images import ImageRecord, Name
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.engine.embedded.state import State

_ENTRY = "image/"
_FAMILIAR = "docker.io/"
_ID_LENGTH = 64  # a name of so many hexadecimal digits would read as an id
NO_NAME = "<none>"
_MANY = 5
_LIKE = 0.75


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image and the name it was found by, None when that was its id."""

    record: ImageRecord
    name: Name | None


def find_image(state: State, wanted: str) -> FoundImage:
    """The image that ``wanted`` means: a reference in full or familiar form, the entry of a stack (``shop/base``), or a
    unique prefix of an id. Names win over ids. Raises ``NotFoundError`` or ``ConflictError``.
    """
    for text in _spellings(wanted):
        name = state.names.lookup(text)
        record = state.images.get(name.digest) if name is not None else None
        if record is not None:
            return FoundImage(record, name)
    record = _by_digest(state, wanted) or _by_id(state, wanted)
    if record is None:
        raise NotFoundError(f"no image {wanted[:200]!a} on this host", hint=_hint(state, wanted))
    return FoundImage(record, None)


def _hint(state: State, wanted: str) -> str:
    """The names that may have been meant: of the same repository, or written nearly so."""
    from difflib import get_close_matches

    shown = {name.name: shown_name(name) for name in state.names.list()}
    reference = _reference(wanted)
    same = [text for name, text in shown.items() if reference and name.startswith(f"{reference.name}:")]
    if same:
        return f"there is {', '.join(same[:_MANY])}{', ...' if len(same) > _MANY else ''}"
    spellings = {spelling: text for text in shown.values() for spelling in (text.rpartition(":")[0] or text, text)}
    near = get_close_matches(wanted[:200], spellings, 1, _LIKE)
    return f"did you mean {spellings[near[0]]}?" if near else "list them with: reconciler image ls"


def shown_name(name: Name) -> str:
    """A name as people write it: ``debian:bookworm``, or ``shop/base`` for the entry of a stack."""
    return name.name.removeprefix(_ENTRY) if name.kind == "entry" else Reference.parse(name.name).familiar


def split_name(name: str, kind: str) -> tuple[str, str]:
    """A stored name as people write it, and its tag apart: ``("debian", "bookworm")``, ``("shop/base", "")``."""
    if kind == "entry":
        return name.removeprefix(_ENTRY), ""
    repository, colon, tag = name.rpartition(":")
    if colon and "@" not in name:
        if not name.startswith(_FAMILIAR):
            return repository, tag
        first, _, rest = repository.removeprefix(_FAMILIAR).partition("/")
        # The familiar form of most names of Docker Hub: parsing thousands would take longer than all the rest.
        if first == "library" and "/" not in rest and len(rest) != _ID_LENGTH:
            return rest, tag
        if first not in ("library", "localhost") and "." not in first:
            return f"{first}/{rest}", tag
    reference = Reference.parse(name)
    tag = reference.tag or ""
    return reference.familiar.partition("@")[0].removesuffix(f":{tag}"), tag


def _spellings(wanted: str) -> list[str]:
    reference = _reference(wanted)
    return [wanted, *([str(reference)] if reference else []), _ENTRY + wanted]


def _reference(wanted: str) -> Reference | None:
    try:
        return Reference.parse(wanted)
    except InvalidError:
        return None


def _by_digest(state: State, wanted: str) -> ImageRecord | None:
    """The image of ``name@sha256:...``, which may be the digest of the index that it was chosen from."""
    reference = _reference(wanted)
    if reference is None or reference.digest is None:
        return None
    found = state.images.get(reference.digest)
    return found or next(iter(state.images.of_index(reference.digest)), None)


def _by_id(state: State, wanted: str) -> ImageRecord | None:
    try:
        found = state.images.by_prefix(wanted)
    except InvalidError:
        return None
    if len(found) > 1:
        ids = ", ".join(image.digest.hex[:16] for image in found[:5])
        raise ConflictError(f"{wanted!a} is ambiguous: {ids}", hint="write more of the id")
    return found[0] if found else None
