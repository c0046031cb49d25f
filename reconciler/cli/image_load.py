"""``reconciler image load`` and ``import``."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from reconciler.cli.context import Context
from reconciler.cli.instructions import config_changes
from reconciler.cli.progress import transfer
from reconciler.engine.embedded.images.adhoc import check_movable
from reconciler.engine.embedded.images.load import Loaded, load_images, naming
from reconciler.engine.embedded.images.lookup import shown_name
from reconciler.errors import InvalidError, UsageError
from reconciler.linux import durable
from reconciler.model.address import Address
from reconciler.model.resources import FileContent, Import
from reconciler.oci.archives import HEAD, Use, check_archive
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.printable import printable
from reconciler.store.images import Name

_STDIN = "standard input"
_ENOUGH = 4096


def run(context: Context, options: argparse.Namespace) -> int:
    """Loads the images of an archive, and says which of its names they got and which they did not."""
    platform = Platform.parse(options.platform) if options.platform else None
    with _source(options.input, "load") as source, context.engine() as engine, engine.turn(context.lock_timeout):
        machinery = engine.writer()
        with transfer(context, Address("image", options.input), f"load {options.input}") as progress:
            loaded = load_images(
                source,
                machinery.state,
                machinery.images,
                only=options.name,
                platform=platform,
                move=options.replace_tags,
                progress=progress,
            )
    for item in loaded:
        _show(context, item)
    return 0


def import_(context: Context, options: argparse.Namespace) -> int:
    """Makes an image of one layer from the archive of a root filesystem, and prints its digest."""
    reference = Reference.parse(options.reference) if options.reference else None
    if reference is not None and reference.digest is not None:
        raise InvalidError(f"{reference.familiar}: a digest cannot be given to an image", hint="write NAME:TAG")
    platform = Platform.parse(options.platform) if options.platform else None
    changes = config_changes(options.change)
    with _source(options.file, "import") as source, context.engine() as engine, engine.turn(context.lock_timeout):
        assert not isinstance(source, Path)
        machinery = engine.writer()
        # What the archive is known by is what is in it: nothing here has to hold it to its name.
        wanted = Import(FileContent(options.file, "", 0), changes, platform)
        record = machinery.images.import_archive(wanted, lambda: source)
        if reference is not None:
            check_movable(machinery.state, reference, record.digest)
            machinery.state.names.set(Name(str(reference), record.digest, "", "tag"))
    context.print(record.digest)
    return 0


@contextlib.contextmanager
def _source(file: str, use: Use) -> Iterator[BinaryIO | Path]:
    """What to read, which what is wrong with it then names. ``-`` is standard input; of a directory to load, its path.

    Raises ``InvalidError`` at once for what is certainly no archive.
    """
    if file == "-":
        if sys.stdin.isatty():
            raise UsageError("an archive cannot be typed", hint="name a file, or pipe one in")
        _check(sys.stdin.buffer, _STDIN, use)
        with naming(_STDIN):
            yield sys.stdin.buffer
        return
    path = Path(file)
    if path.is_dir():
        if use == "import":
            raise InvalidError(
                f"{path} is a directory", hint=f"pack it: tar -C {path} -c . | reconciler image import -"
            )
        with naming(file):
            yield path
        return
    with durable.guarded("read", path):
        stream = path.open("rb")
    with stream:
        with durable.guarded("read", path):
            _check(stream, file, use)
        with naming(file):
            yield stream


def _check(stream: BinaryIO, name: str, use: Use) -> None:
    if stream.seekable():
        start = stream.tell()
        head = stream.read(HEAD)
        stream.seek(start)
        check_archive(head, name, use)
    elif isinstance(stream, BufferedReader):
        head = stream.peek(HEAD)
        # Of a few bytes more may come, and whoever reads it sees; nothing at all is the end.
        if not head or len(head) >= _ENOUGH:
            check_archive(head, name, use)


def _show(context: Context, loaded: Loaded) -> None:
    for reference in loaded.names:
        context.print(f"Loaded image: {printable(reference.familiar)}")
    if not loaded.names:
        context.print(f"Loaded image ID: {loaded.record.digest}")
    for name in loaded.kept:
        why = f"stack {name.stack} declares it" if name.stack else "--replace-tags moves it"
        kept = f"{shown_name(name)} stays the name of {name.digest.short}"
        context.note(printable(f"{kept} and is not given to {loaded.record.digest.short}: {why}"))
