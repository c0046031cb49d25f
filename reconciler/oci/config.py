"""Image configs (OCI image-spec, config.md).

``ImageConfig`` reads what running and listing need. A commit writes a new document from the old one's JSON, so
fields that this reader does not know are carried along.
"""

from __future__ import annotations

import json
from typing import Any

from reconciler.errors import InvalidError
from reconciler.oci.digest import Digest
from reconciler.oci.document import (
    check_keys,
    labels_field,
    list_field,
    object_field,
    read_object,
    text_field,
    texts_field,
)
from reconciler.oci.platform import Platform
from reconciler.value import dataclass

MAX_CONFIG_BYTES = 8 * 1024 * 1024
_WHERE = "image config"
_KEYS = frozenset({"created", "author", "architecture", "os", "variant", "config", "rootfs", "history"})
_ROOTFS_KEYS = frozenset({"type", "diff_ids"})


@dataclass(frozen=True, slots=True)
class History:
    """One step of how the image came to be; an empty layer has no diff ID of its own."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    def to_json(self) -> dict[str, Any]:
        pairs = {
            "created": self.created,
            "created_by": self.created_by,
            "author": self.author,
            "comment": self.comment,
        }
        document: dict[str, Any] = {key: text for key, text in pairs.items() if text}
        if self.empty_layer:
            document["empty_layer"] = True
        return document


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of itself. ``raw`` is the whole document, read-only by convention."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    created: str
    author: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    env: tuple[str, ...]
    user: str
    working_dir: str
    stop_signal: str
    labels: dict[str, str]
    volumes: tuple[str, ...]
    exposed_ports: tuple[str, ...]
    history: tuple[History, ...]
    raw: dict[str, Any]

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        """Reads a config blob. Raises ``InvalidError`` naming the field at fault."""
        raw = read_object(data, _WHERE, MAX_CONFIG_BYTES)
        check_keys(raw, _KEYS, _WHERE)
        inner = object_field(raw, "config", _WHERE)
        return cls(
            platform=_platform(raw),
            diff_ids=_diff_ids(raw),
            created=text_field(raw, "created", _WHERE),
            author=text_field(raw, "author", _WHERE),
            entrypoint=_words(inner, "Entrypoint"),
            cmd=_words(inner, "Cmd"),
            env=texts_field(inner, "Env", _WHERE),
            user=text_field(inner, "User", _WHERE),
            working_dir=text_field(inner, "WorkingDir", _WHERE),
            stop_signal=text_field(inner, "StopSignal", _WHERE),
            labels=labels_field(inner, "Labels", _WHERE),
            volumes=tuple(sorted(object_field(inner, "Volumes", _WHERE))),
            exposed_ports=tuple(sorted(object_field(inner, "ExposedPorts", _WHERE))),
            history=_history(raw),
            raw=raw,
        )


def encode_config(document: dict[str, Any]) -> bytes:
    """The canonical bytes of a config document that we write: compact, keys sorted."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def _platform(raw: dict[str, Any]) -> Platform:
    os_, architecture, variant = (text_field(raw, key, _WHERE) for key in ("os", "architecture", "variant"))
    return Platform.normal(os_ or "linux", architecture, variant, texts_field(raw, "os.features", _WHERE))


def _words(document: dict[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key)
    # Docker wrote a bare string in old images.
    return (value,) if isinstance(value, str) else texts_field(document, key, _WHERE)


def _diff_ids(raw: dict[str, Any]) -> tuple[Digest, ...]:
    rootfs = object_field(raw, "rootfs", _WHERE)
    check_keys(rootfs, _ROOTFS_KEYS, _WHERE)
    if rootfs.get("type") != "layers":
        raise InvalidError("image config field 'rootfs.type' is not 'layers'")
    return tuple(Digest(text) for text in texts_field(rootfs, "diff_ids", _WHERE))


def _history(raw: dict[str, Any]) -> tuple[History, ...]:
    entries = list_field(raw, "history", _WHERE)
    if not all(isinstance(entry, dict) for entry in entries):
        raise InvalidError("image config field 'history' is not a list of objects")
    return tuple(
        History(
            created=text_field(entry, "created", _WHERE),
            created_by=text_field(entry, "created_by", _WHERE),
            author=text_field(entry, "author", _WHERE),
            comment=text_field(entry, "comment", _WHERE),
            empty_layer=entry.get("empty_layer") is True,
        )
        for entry in entries
    )
