"""Loading images from archives: which of them, and which names they get here."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from reconciler.engine.embedded.images.adhoc import check_movable
from reconciler.errors import IntegrityError, InvalidError
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.store.image_archive.files import ArchiveFiles, DirectoryFiles, ImageFiles, seekable
from reconciler.store.image_archive.reader import Candidate, images_of
from reconciler.store.images import ImageRecord, Name
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.engine.embedded.images.intake import Images
    from reconciler.engine.embedded.state import State
    from reconciler.engine.port import ItemProgress

_PURPOSE = "load an image archive"


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image of an archive that is on this host now.

    ``names`` are those of the archive that mean it; ``kept`` are others of the archive's names, which go on to mean
    what they meant.
    """

    record: ImageRecord
    names: tuple[Reference, ...]
    kept: tuple[Name, ...]


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Puts the name of an archive before errors that tell what is wrong with it."""
    try:
        yield
    except (InvalidError, IntegrityError) as error:
        raise type(error)(f"{name}: {error}", hint=error.hint) from error


def load_archive(archive: BinaryIO, ref: str, images: Images, progress: ItemProgress | None = None) -> ImageRecord:
    """Loads one image and names nothing; ``ref`` says which where the archive holds several.

    Raises ``InvalidError`` and ``IntegrityError``.
    """
    with seekable(archive, images.spool) as stream:
        archived = pick(images_of(ArchiveFiles(stream), Platform.host()), ref).read()
        return images.add_image(archived, _PURPOSE, progress)


def load_images(
    source: BinaryIO | Path,
    state: State,
    images: Images,
    *,
    only: Collection[str] = (),
    platform: Platform | None = None,
    move: bool = False,
    progress: ItemProgress | None = None,
) -> list[Loaded]:
    """Loads all images of an archive, or of a directory that is an OCI layout, or those named by ``only``.

    A name of the archive that is free becomes the image's. One that means another image moves only with ``move``, and
    never when a stack owns it: then ``ConflictError`` is raised before anything is written. Needs the turn. Raises
    ``InvalidError`` and ``IntegrityError``.
    """
    with ExitStack() as stack:
        files: ImageFiles
        if isinstance(source, Path):
            files = DirectoryFiles(source)
        else:
            files = ArchiveFiles(stack.enter_context(seekable(source, images.spool)))
        offered = images_of(files, platform or Platform.host())
        chosen = [pick(offered, name) for name in only] or offered
        found = [(candidate, candidate.read()) for candidate in chosen]
        if not found:
            raise InvalidError("the archive holds no image")
        names = [_names(candidate) for candidate, _ in found]
        if move:
            for references, (_, archived) in zip(names, found, strict=True):
                for reference in references:
                    check_movable(state, reference, Digest.of(archived.manifest))
        return [
            _name(state, images.add_image(archived, _PURPOSE, progress), references, move=move)
            for references, (_, archived) in zip(names, found, strict=True)
        ]


def pick(candidates: list[Candidate], ref: str) -> Candidate:
    """The candidate named ``ref``, or the only one when that is empty. Raises ``InvalidError`` telling the names."""
    fitting = [item for item in candidates if not ref or any(_same(name, ref) for name in item.names)]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(sorted(name for item in candidates for name in item.names)) or "none has a name"
    problem = f"has no image {ref!a}" if ref and not fitting else f"holds {len(fitting)} images"
    raise InvalidError(
        f"the archive {problem}; its names: {known[:500]}",
        hint="pick one: `load: {file, ref}` in a spec, --name by hand",
    )


def _name(state: State, record: ImageRecord, references: list[Reference], *, move: bool) -> Loaded:
    given, kept = [], []
    for reference in references:
        known = state.names.lookup(str(reference))
        if known is None or (known.digest != record.digest and move):
            state.names.set(Name(str(reference), record.digest, "", "tag"))
        elif known.digest != record.digest:
            kept.append(known)
            continue
        given.append(reference)
    return Loaded(record, tuple(given), tuple(kept))


def _names(candidate: Candidate) -> list[Reference]:
    """What an archive's names are as references. A tag alone, as other tools' layouts have, names no image."""
    found: dict[Reference, None] = {}
    for name in candidate.names:
        reference = _reference(name)
        if reference is not None and reference.tag is not None and any(mark in name for mark in "/:"):
            found[replace(reference, digest=None)] = None
    return list(found)


def _same(name: str, ref: str) -> bool:
    """Whether both mean one image. ``docker save`` writes ``app:1`` where skopeo writes ``docker.io/library/app:1``."""
    reference = _reference(name)
    return name == ref or (reference is not None and reference == _reference(ref))


def _reference(text: str) -> Reference | None:
    try:
        return Reference.parse(text)
    except InvalidError:
        return None
