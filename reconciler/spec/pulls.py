"""Where specs write the references of images that are pulled, and what stands in the way of writing others there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from reconciler.errors import InvalidError
from reconciler.model.address import Address, in_stack
from reconciler.model.desired import Desired, Location
from reconciler.model.resources import Image, Pull
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.spec.errors import Problems, field_name
from reconciler.spec.images import names_tag
from reconciler.spec.nodes import Scalar, find, scalars
from reconciler.spec.stacks import Document, Entry, Path, Stack, merge
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class PullText:
    """A reference as a spec writes it: at ``path`` of a document, as ``node``; ``text`` has its variables expanded."""

    address: Address
    pull: Pull
    document: Document
    path: Path
    node: Scalar
    text: str

    @property
    def location(self) -> Location:
        return self.document.at(self.path)

    @property
    def moves(self) -> bool:
        """Whether it can be out of date: a tag is to be picked, or it is a pin of a tag."""
        reference = self.pull.reference
        return self.pull.track is not None or (reference.tag is not None and reference.digest is not None)


def pull_texts(documents: Sequence[Document], desired: Desired) -> list[PullText]:
    """The references of all images to pull in ``documents``, of which ``desired`` was made, by their places.

    They stand in entries of ``images``, and where containers, services and tags name an image by its reference.
    """
    stacks = merge(documents, Problems())
    found = [text for stack in stacks.values() for text in _of_stack(stack, desired)]
    return sorted(found, key=lambda item: item.location)


def _of_stack(stack: Stack, desired: Desired) -> Iterator[PullText]:
    images = stack.sections["images"]
    for name, entry in images.items():
        yield from _text(entry, "pull", entry.model.pull, in_stack("image", stack.name, name), desired)
    for entry in (*stack.sections["containers"].values(), *stack.sections["tags"].values()):
        text = entry.model.image
        if text is not None and text not in images:
            address = in_stack("image", stack.name, Reference.parse(text).familiar)
            yield from _text(entry, "image", text, address, desired)


def _text(entry: Entry, field: str, text: str | None, address: Address, desired: Desired) -> Iterator[PullText]:
    image = desired.resources.get(address)
    # The short form of an entry is the field's text alone.
    for path in (entry.path, (*entry.path, field)):
        node = find(entry.document.root, path)
        if (
            text is not None
            and isinstance(node, Scalar)
            and isinstance(image, Image)
            and isinstance(image.source, Pull)
        ):
            yield PullText(address, image.source, entry.document, path, node, text)


def repinned(text: str, tag: str, digest: Digest) -> str:
    """The reference ``text`` as a pin: its repository as it is written there, with this tag and digest."""
    name = text.partition("@")[0]
    if names_tag(text):
        name = name.removesuffix(f":{Reference.parse(text).tag}")
    return f"{name}:{tag}@{digest}"


def obstacles(wanted: Mapping[PullText, str]) -> dict[PullText, InvalidError]:
    """Why a reference cannot be changed to what is wanted without changing something else, for those of which that is
    so. ``wanted`` holds all that somebody looked at, also those that stay as they are."""
    found: dict[PullText, InvalidError] = {}
    uses: dict[int, list[tuple[Document, Path]]] = {}
    changed = [text for text, new in wanted.items() if text.text != new]
    for document in dict.fromkeys(text.document for text in changed):
        for path, node in scalars(document.root):
            # What stands below x- keys is there to be shared.
            if not str(path[0]).startswith("x-"):
                uses.setdefault(id(node), []).append((document, path))
    agreed = {(text.document, text.path): new for text, new in wanted.items()}
    for text in changed:
        new = wanted[text]
        others = [path for document, path in uses[id(text.node)] if agreed.get((document, path)) != new]
        if "$" in text.node.text:
            found[text] = InvalidError(
                f"the reference is made of variables, and should be {new}", hint="change the variable, or write it out"
            )
        elif others:
            found[text] = InvalidError(
                f"the reference is shared with {field_name(others[0])} by an anchor, and should be {new} here alone",
                hint="write the two out, each its own",
            )
    return found
