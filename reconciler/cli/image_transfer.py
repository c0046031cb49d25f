"""``reconciler image pull`` and ``push``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from reconciler.amount import size
from reconciler.cli.context import Context
from reconciler.cli.progress import transfer
from reconciler.cli.step_words import moved_parts
from reconciler.engine.embedded.images.adhoc import plain_hosts, pull_image
from reconciler.engine.embedded.images.lookup import find_image
from reconciler.engine.port import HostFacts
from reconciler.errors import InvalidError, RegistryError
from reconciler.model.address import Address
from reconciler.model.resources import Pull
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference

if TYPE_CHECKING:
    from reconciler.engine.embedded.engine import EmbeddedEngine
    from reconciler.engine.embedded.images.intake import Pulled


def pull(context: Context, options: argparse.Namespace) -> int:
    """Fetches what is not there, says so on stderr, and prints the image's digest.

    Raises ``RegistryError`` when nobody could tell what the tag is now, also when an older image of it is stored.
    """
    reference = Reference.parse(options.reference)
    platform = Platform.parse(options.platform) if options.platform else None
    with context.engine() as engine, engine.turn(context.lock_timeout):
        pulled, doubt = pull_by_hand(
            context, engine, Pull(reference, "always", platform), plain_http=options.plain_http
        )
    if doubt:
        raise RegistryError(doubt, hint="`container run` and specs go on with the image that is stored")
    news = f"Downloaded newer image for {reference.familiar} ({size(pulled.fetched)})"
    context.tell(f"Status: {news if pulled.fetched else 'Image is up to date'}")
    context.print(pulled.record.digest)
    return 0


def pull_by_hand(context: Context, engine: EmbeddedEngine, wanted: Pull, *, plain_http: bool) -> tuple[Pulled, str]:
    """``pull_image``, seen on stderr."""
    name = wanted.reference.familiar
    with transfer(context, Address("image", name), f"pull {name}") as progress:
        return pull_image(engine, wanted, progress, plain_http=plain_http)


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
            context.tell(f"pushing the manifest of {record.platform} alone, not the index it was pulled from")
        with transfer(context, Address("tag", str(reference)), f"push {reference.familiar}") as progress:
            sent = machinery.tags.push(engine.client(hosts), reference, record.digest, None, progress, check=False)
    context.tell(f"{reference.familiar}: {', '.join(moved_parts(sent)) or 'nothing to send but its manifest'}")
    context.print(record.digest)
    return 0
