"""``reconciler image pull`` and ``push``."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable

from reconciler.cli.context import Context
from reconciler.cli.table import size
from reconciler.engine.embedded.images.adhoc import plain_hosts, pull_image
from reconciler.engine.embedded.images.lookup import find_image
from reconciler.engine.port import HostFacts
from reconciler.errors import InvalidError
from reconciler.model.resources import Pull
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.printable import printable

_ENDINGS = {"done": "Pull complete", "already exists": "Already exists"}


def pull(context: Context, options: argparse.Namespace) -> int:
    """Fetches what is not there, says so on stderr, and prints the image's digest."""
    reference = Reference.parse(options.reference)
    platform = Platform.parse(options.platform) if options.platform else None
    with context.engine() as engine, engine.turn(context.lock_timeout):
        wanted = Pull(reference, "always", platform)
        record, fetched = pull_image(engine, wanted, layer_lines(context), plain_http=options.plain_http)
    news = f"Downloaded newer image for {reference.familiar} ({size(fetched)})" if fetched else "Image is up to date"
    _note(context, f"Status: {news}")
    context.print(record.digest)
    return 0


def push(context: Context, options: argparse.Namespace) -> int:
    """Sends what the registry lacks and moves the tag there; prints the digest it has now."""
    reference = Reference.parse(options.reference)
    if reference.tag is None or reference.digest is not None:
        raise InvalidError(f"{reference.familiar} names no tag alone", hint="push a tag, such as HOST/NAME:1.0")
    with context.engine() as engine, engine.turn(context.lock_timeout):
        machinery = engine.writer()
        record = find_image(machinery.state, options.reference).record
        hosts = plain_hosts(machinery.state, reference.registry) if options.plain_http else HostFacts()
        if record.index_digest is not None:
            _note(context, f"pushing the manifest of {record.platform} alone, not the index it was pulled from")
        sent = machinery.tags.push(
            engine.client(hosts), reference, record.digest, None, lambda _bytes: None, check=False
        )
    _note(context, f"{reference.familiar}: {size(sent)} sent")
    context.print(record.digest)
    return 0


def layer_lines(context: Context) -> Callable[[str, str, int, int | None], None]:
    """Hears of a pull, from several threads, and writes a line for each layer that is ready."""
    lock = threading.Lock()

    def report(item: str, state: str, _done: int, total: int | None) -> None:
        if state in _ENDINGS and context.progress != "quiet":
            with lock:
                _note(context, f"{item}: {_ENDINGS[state]} ({size(total)})")

    return report


def _note(context: Context, text: str) -> None:
    context.note(printable(text))
