"""``reconciler image save``."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.cli.context import Context
from reconciler.engine.embedded.images.lookup import find_image
from reconciler.engine.embedded.state import State, open_reader
from reconciler.errors import UsageError
from reconciler.linux import durable
from reconciler.oci.digest import Digest
from reconciler.oci.reference import Reference
from reconciler.store.image_archive.writer import SavedImage, Write, write_archive
from reconciler.store.images import ImageRecord


def run(context: Context, options: argparse.Namespace) -> int:
    """Writes one archive of all images named; a file gets its name when it is whole and on disk."""
    state = open_reader(context.root)
    try:
        images = _images(state, options.names)
        target = options.output if options.output != "-" else None
        with _stream(context) if target is None else _file(Path(target).absolute()) as write:
            write_archive(images, state.content, write, docker=options.format == "docker")
    finally:
        state.close()
    return 0


def _images(state: State, wanted: list[str]) -> list[SavedImage]:
    """One for each image, with the names that it was asked for by: one asked for by its id has none."""
    records: dict[Digest, ImageRecord] = {}
    names: dict[Digest, list[Reference]] = {}
    for found in [find_image(state, name) for name in wanted]:
        digest = found.record.digest
        records[digest] = found.record
        given = names.setdefault(digest, [])
        if found.name is not None and found.name.kind == "tag":
            reference = Reference.parse(found.name.name)
            if reference.tag is not None and reference not in given:
                given.append(reference)
    return [SavedImage(record, tuple(names[digest])) for digest, record in records.items()]


@contextmanager
def _stream(context: Context) -> Iterator[Write]:
    if context.stdout.isatty():
        raise UsageError("an archive is nothing for a terminal to show", hint="write it to a file with -o FILE")
    yield _all_to(context.stdout.fileno())


@contextmanager
def _file(target: Path) -> Iterator[Write]:
    """Writes beside the target, which then is replaced in one step. What is no regular file is written to as it is."""
    if target.exists() and not target.is_file():
        with durable.guarded("write", target):
            descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield _guarded(_all_to(descriptor), target)
        finally:
            os.close(descriptor)
        return
    with durable.guarded("write", target):
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    temporary = Path(name)
    try:
        try:
            yield _guarded(_all_to(descriptor), target)
            os.fchmod(descriptor, 0o644 & ~_umask())
        finally:
            os.close(descriptor)
        durable.publish(temporary, target, point="image.save")
    finally:
        temporary.unlink(missing_ok=True)


def _all_to(descriptor: int) -> Write:
    return lambda data: durable.write_all(descriptor, data)


def _guarded(write: Write, target: Path) -> Callable[[bytes], None]:
    def guarded(data: bytes) -> None:
        with durable.guarded("write", target):
            write(data)

    return guarded


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
