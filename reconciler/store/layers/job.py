"""Unpacking one layer from its blob: inflated and hashed in a thread, extracted in this one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from reconciler.store.archive.compression import decompress
from reconciler.store.arrival import Following
from reconciler.store.layers.extract import extract
from reconciler.store.layers.worker_messages import Descriptors, Unpacked
from reconciler.store.pipeline import ReadAhead, hashed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reconciler.store.archive.limits import Limits
    from reconciler.store.layers.lower import LowerLayers


def unpack(
    job: Descriptors, target: Path, below: Callable[[], LowerLayers], limits: Limits, *, is_confined: bool
) -> Unpacked:
    """Unpacks a layer; ``target`` names it in messages, or opens it if this process is not confined to it.

    Raises what ``extract`` and ``decompress`` raise.
    """
    hasher = hashlib.sha256()
    source = Following(job.blob, job.signal)
    with ReadAhead(hashed(decompress(source, limits), hasher)) as chunks:
        confined = job.directory if is_confined else None
        extracted = extract(iter(chunks), target, below, job.files, limits, confined=confined)
    return Unpacked(extracted.entries, extracted.size, hasher.hexdigest())
